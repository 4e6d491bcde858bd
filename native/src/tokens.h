// Whole tokens for JavaScript: strings and bytes in, strings and bytes out. What differs between the formats is passed as a function.
#pragma once
#include <cstring>

#include "base64.h"
#include "core.h"
#include "token.h"
#include "utf8.h"
#include "values.h"

namespace keystore {

// Where a plaintext stands among a token's bytes.
struct Layout {
  Format format;
  size_t front;
  size_t overhead;
};

constexpr Layout kV3Layout = {Format::kV3, kV3FrontBytes, kV3Overhead};
constexpr Layout kV2Layout = {Format::kV2, kGcmNonceBytes, kV2Overhead};

enum class As { kBytes, kText };

// Encrypts what stands in `bytes`, and makes the token. `seal(bytes, length)` encrypts the plaintext of that length in place, and fills in
// what is before and after it.
template <typename Seal>
napi_value SealInPlace(napi_env env, Core* core, const Layout& layout, uint8_t* bytes, size_t length, Seal seal) {
  if (seal(bytes, length) != Outcome::kDone) {
    Throw(env, "OpenSSL did not encrypt");
    return nullptr;
  }
  const size_t token_bytes = layout.overhead + length;
  const size_t characters = TokenCharacters(layout.format, token_bytes);
  Scratch::Loan text(core->characters, characters, Scratch::kPublic);
  if (text.data() == nullptr) {
    Throw(env, "there is no memory");
    return nullptr;
  }
  char* const token = reinterpret_cast<char*>(text.data());
  WriteToken(layout.format, bytes, token_bytes, token);
  return AsciiString(env, token, characters);
}

// The token of a plaintext, a string or a Uint8Array; JavaScript's null for a string with a lone surrogate.
template <typename Seal>
napi_value SealToken(napi_env env, Core* core, const Layout& layout, napi_value plaintext, Seal seal) {
  String string(core->string, Scratch::kSecret);
  const String::Status status = string.Read(env, plaintext);
  if (status == String::Status::kFailed) return nullptr;
  if (status == String::Status::kRead) {
    const size_t length = Utf8Length(string.text(), string.length());
    if (length == kIllFormed) return Null(env);
    if (length > kMostPlaintext) {
      Throw(env, "the plaintext is too long for a token");
      return nullptr;
    }
    Scratch::Loan bytes(core->bytes, layout.overhead + length, Scratch::kSecret);
    if (bytes.data() == nullptr) {
      Throw(env, "there is no memory");
      return nullptr;
    }
    WriteUtf8(string.text(), string.length(), bytes.data() + layout.front, length);
    return SealInPlace(env, core, layout, bytes.data(), length, seal);
  }
  Bytes given;
  if (!BytesOf(env, plaintext, "plaintext", &given)) return nullptr;
  if (given.length > kMostPlaintext) {
    Throw(env, "the plaintext is too long for a token");
    return nullptr;
  }
  Scratch::Loan bytes(core->bytes, layout.overhead + given.length, Scratch::kSecret);
  if (bytes.data() == nullptr) {
    Throw(env, "there is no memory");
    return nullptr;
  }
  if (given.length > 0) std::memcpy(bytes.data() + layout.front, given.data, given.length);
  return SealInPlace(env, core, layout, bytes.data(), given.length, seal);
}

// What authentic bytes are for JavaScript; its undefined for bytes that should be a text and are not UTF-8.
inline napi_value Plaintext(napi_env env, const uint8_t* bytes, size_t length, As as) {
  if (as == As::kBytes) return CopiedBuffer(env, bytes, length);
  switch (KindOf(bytes, length)) {
    case TextKind::kAscii:
      return AsciiString(env, reinterpret_cast<const char*>(bytes), length);
    case TextKind::kUtf8:
      return Utf8String(env, bytes, length);
    case TextKind::kNoText:
      break;
  }
  return Undefined(env);
}

// The plaintext of a token's bytes, which are decrypted in place.
template <typename Open>
napi_value OpenInPlace(napi_env env, const Layout& layout, uint8_t* bytes, size_t token_bytes, As as, Open open) {
  const size_t length = token_bytes - layout.overhead;
  switch (open(bytes, length)) {
    case Outcome::kDone:
      return Plaintext(env, bytes + layout.front, length, as);
    case Outcome::kRefused:
      return Null(env);
    case Outcome::kFailed:
      break;
  }
  Throw(env, "OpenSSL did not decrypt");
  return nullptr;
}

// The plaintext of a token; JavaScript's null if it is malformed or not authentic. `open(bytes, length)` verifies the token's bytes, and
// decrypts the plaintext of that length in place. `ticket` is what the token was checked with, or 0.
template <typename Open>
napi_value OpenToken(napi_env env, Core* core, const Layout& layout, napi_value token, napi_value ticket_value, As as,
                     Open open) {
  double ticket = 0;
  if (napi_get_value_double(env, ticket_value, &ticket) != napi_ok) {
    ThrowType(env, "ticket must be a number");
    return nullptr;
  }
  const CheckedToken& checked = core->checked;
  if (ticket != 0 && ticket == checked.ticket && checked.is_v3 == (layout.format == Format::kV3)) {
    Scratch::Loan copy(core->bytes, checked.length, Scratch::kSecret);
    if (copy.data() == nullptr) {
      Throw(env, "there is no memory");
      return nullptr;
    }
    std::memcpy(copy.data(), checked.bytes, checked.length);
    return OpenInPlace(env, layout, copy.data(), checked.length, as, open);
  }
  String text(core->string, Scratch::kPublic);
  const String::Status status = text.Read(env, token);
  if (status == String::Status::kNoString) ThrowType(env, "token must be a string");
  if (status != String::Status::kRead) return nullptr;
  Scratch::Loan bytes(core->bytes, MostDecoded(text.length()), Scratch::kSecret);
  if (bytes.data() == nullptr) {
    Throw(env, "there is no memory");
    return nullptr;
  }
  const size_t token_bytes = ReadToken(layout.format, text.text(), text.length(), bytes.data());
  if (token_bytes == 0) return Null(env);
  return OpenInPlace(env, layout, bytes.data(), token_bytes, as, open);
}

}  // namespace keystore
