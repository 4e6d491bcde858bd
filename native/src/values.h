// JavaScript's values: what is read of them, made of them, and thrown. A function that returns false or null has left an exception pending.
#pragma once
#include <node_api.h>

#include <optional>

#include "ciphers.h"
#include "secret_memory.h"

namespace keystore {

// Leaves an Error pending, unless there is one already. No message holds a value.
void Throw(napi_env env, const char* message);
void ThrowType(napi_env env, const char* message);

// The bytes of a Uint8Array. Valid until JavaScript runs again.
bool BytesOf(napi_env env, napi_value value, const char* name, Bytes* bytes);
bool BytesOf(napi_env env, napi_value value, const char* name, size_t length, Bytes* bytes);

// A copy of a JavaScript string, for as long as this lives.
class String {
 public:
  enum class Status { kRead, kNoString, kFailed };

  String(Scratch& scratch, Scratch::Content content) : scratch_(scratch), content_(content) {}

  // kNoString leaves no exception pending, kFailed does. Once.
  Status Read(napi_env env, napi_value value);

  const char16_t* text() const { return text_; }
  size_t length() const { return length_; }

  // It turned out to be nothing secret: it need not be wiped.
  void IsPublic() { loan_->Used(0); }

 private:
  Status ReadLong(napi_env env, napi_value value);

  // Most strings are read by one call of Node's; the length of one that does not fit is asked for first.
  static constexpr size_t kShortUnits = 2048;

  Scratch& scratch_;
  const Scratch::Content content_;
  std::optional<Scratch::Loan> loan_;
  const char16_t* text_ = nullptr;
  size_t length_ = 0;
};

napi_value Null(napi_env env);
napi_value Undefined(napi_env env);
napi_value AsciiString(napi_env env, const char* text, size_t length);
napi_value Utf8String(napi_env env, const uint8_t* text, size_t length);
// A Buffer with a copy.
napi_value CopiedBuffer(napi_env env, const uint8_t* bytes, size_t length);

// The arguments of a call, `undefined` where there are fewer, and what its function is attached to.
template <size_t kCount>
struct Call {
  napi_value self = nullptr;
  napi_value arguments[kCount] = {};
  void* data = nullptr;

  bool Read(napi_env env, napi_callback_info info) {
    size_t count = kCount;
    if (napi_get_cb_info(env, info, &count, arguments, &self, &data) == napi_ok) return true;
    Throw(env, "the call cannot be read");
    return false;
  }
};

}  // namespace keystore
