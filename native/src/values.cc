#include "values.h"

#include <cstdio>

namespace keystore {
namespace {

bool IsPending(napi_env env) {
  bool is_pending = true;
  return napi_is_exception_pending(env, &is_pending) != napi_ok || is_pending;
}

napi_value Made(napi_env env, napi_status status, napi_value value) {
  if (status == napi_ok) return value;
  Throw(env, "the result cannot be made");
  return nullptr;
}

}  // namespace

void Throw(napi_env env, const char* message) {
  if (!IsPending(env)) napi_throw_error(env, "ERR_KEYSTORE_NATIVE", message);
}

void ThrowType(napi_env env, const char* message) {
  if (!IsPending(env)) napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", message);
}

bool BytesOf(napi_env env, napi_value value, const char* name, Bytes* bytes) {
  napi_typedarray_type type;
  void* data = nullptr;
  size_t length = 0;
  const napi_status status = napi_get_typedarray_info(env, value, &type, &length, &data, nullptr, nullptr);
  if (status == napi_ok && type == napi_uint8_array && (data != nullptr || length == 0)) {
    *bytes = {static_cast<const uint8_t*>(data), length};
    return true;
  }
  char message[80];
  std::snprintf(message, sizeof(message), "%s must be a Uint8Array", name);
  ThrowType(env, message);
  return false;
}

bool BytesOf(napi_env env, napi_value value, const char* name, size_t length, Bytes* bytes) {
  if (!BytesOf(env, value, name, bytes)) return false;
  if (bytes->length == length) return true;
  char message[80];
  std::snprintf(message, sizeof(message), "%s must be a Uint8Array of %zu bytes", name, length);
  ThrowType(env, message);
  return false;
}

String::Status String::Read(napi_env env, napi_value value) {
  loan_.emplace(scratch_, kShortUnits * sizeof(char16_t), content_);
  char16_t* const out = reinterpret_cast<char16_t*>(loan_->data());
  if (out == nullptr) {
    Throw(env, "there is no memory");
    return Status::kFailed;
  }
  const napi_status status = napi_get_value_string_utf16(env, value, out, kShortUnits, &length_);
  if (status == napi_string_expected) {
    loan_->Used(0);
    return Status::kNoString;
  }
  if (status != napi_ok) {
    Throw(env, "the string cannot be read");
    return Status::kFailed;
  }
  // Node ends what it writes with a zero, and cuts what does not fit.
  if (length_ == kShortUnits - 1) return ReadLong(env, value);
  loan_->Used((length_ + 1) * sizeof(char16_t));
  text_ = out;
  return Status::kRead;
}

String::Status String::ReadLong(napi_env env, napi_value value) {
  loan_.reset();
  size_t copied = 0;
  if (napi_get_value_string_utf16(env, value, nullptr, 0, &length_) != napi_ok) {
    Throw(env, "the string cannot be read");
    return Status::kFailed;
  }
  loan_.emplace(scratch_, (length_ + 1) * sizeof(char16_t), content_);
  char16_t* const out = reinterpret_cast<char16_t*>(loan_->data());
  if (out == nullptr) {
    Throw(env, "there is no memory");
    return Status::kFailed;
  }
  if (napi_get_value_string_utf16(env, value, out, length_ + 1, &copied) != napi_ok || copied != length_) {
    Throw(env, "the string cannot be read");
    return Status::kFailed;
  }
  text_ = out;
  return Status::kRead;
}

napi_value Null(napi_env env) {
  napi_value value = nullptr;
  const napi_status status = napi_get_null(env, &value);
  return Made(env, status, value);
}

napi_value Undefined(napi_env env) {
  napi_value value = nullptr;
  const napi_status status = napi_get_undefined(env, &value);
  return Made(env, status, value);
}

napi_value AsciiString(napi_env env, const char* text, size_t length) {
  napi_value value = nullptr;
  const napi_status status = napi_create_string_latin1(env, text, length, &value);
  return Made(env, status, value);
}

napi_value Utf8String(napi_env env, const uint8_t* text, size_t length) {
  napi_value value = nullptr;
  const napi_status status = napi_create_string_utf8(env, reinterpret_cast<const char*>(text), length, &value);
  return Made(env, status, value);
}

napi_value CopiedBuffer(napi_env env, const uint8_t* bytes, size_t length) {
  napi_value value = nullptr;
  const napi_status status = napi_create_buffer_copy(env, length, bytes, nullptr, &value);
  return Made(env, status, value);
}

}  // namespace keystore
