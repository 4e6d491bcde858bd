#include "token.h"

#include <cstring>

#include "base64.h"

namespace keystore {
namespace {

const char* PrefixOf(Format format) { return format == Format::kV3 ? "v3:" : "v2:"; }

size_t PaddingOf(Format format, size_t bytes) { return format == Format::kV3 ? 0 : (3 - bytes % 3) % 3; }

bool HasPrefix(Format format, const char16_t* text, size_t length) {
  if (length < kPrefixCharacters) return false;
  const char* const prefix = PrefixOf(format);
  for (size_t at = 0; at < kPrefixCharacters; at += 1)
    if (text[at] != static_cast<char16_t>(prefix[at])) return false;
  return true;
}

}  // namespace

size_t TokenCharacters(Format format, size_t bytes) {
  return kPrefixCharacters + EncodedLength(bytes) + PaddingOf(format, bytes);
}

void WriteToken(Format format, const uint8_t* bytes, size_t length, char* out) {
  std::memcpy(out, PrefixOf(format), kPrefixCharacters);
  out += kPrefixCharacters;
  EncodeBase64Url(bytes, length, out);
  std::memset(out + EncodedLength(length), '=', PaddingOf(format, length));
}

size_t ReadToken(Format format, const char16_t* text, size_t length, uint8_t* out) {
  if (!HasPrefix(format, text, length)) return 0;
  text += kPrefixCharacters;
  length -= kPrefixCharacters;
  if (format == Format::kV2) {
    const size_t bytes = DecodeBase64Lenient(text, length, out);
    return bytes != kNotBase64 && bytes >= kV2Overhead ? bytes : 0;
  }
  const size_t bytes = DecodeBase64UrlStrict(text, length, out);
  if (bytes == kNotBase64 || bytes < kV3Overhead) return 0;
  const uint32_t version = VersionOf(out);
  return version >= 1 && version <= kMaxVersion ? bytes : 0;
}

uint32_t CheckToken(const char16_t* text, size_t length) {
  if (HasPrefix(Format::kV2, text, length)) {
    const size_t bytes = CheckBase64Lenient(text + kPrefixCharacters, length - kPrefixCharacters);
    return bytes != kNotBase64 && bytes >= kV2Overhead ? 1 : 0;
  }
  if (!HasPrefix(Format::kV3, text, length)) return 0;
  text += kPrefixCharacters;
  const size_t bytes = CheckBase64UrlStrict(text, length - kPrefixCharacters);
  if (bytes == kNotBase64 || bytes < kV3Overhead) return 0;
  // Two groups of four characters hold the version and more.
  uint8_t front[6];
  DecodeBase64UrlStrict(text, 8, front);
  const uint32_t version = VersionOf(front);
  return version <= kMaxVersion ? version : 0;
}

uint32_t VersionOf(const uint8_t* token_bytes) {
  return static_cast<uint32_t>(token_bytes[0]) << 24 | static_cast<uint32_t>(token_bytes[1]) << 16 |
         static_cast<uint32_t>(token_bytes[2]) << 8 | token_bytes[3];
}

void PutVersion(uint32_t version, uint8_t* token_bytes) {
  token_bytes[0] = static_cast<uint8_t>(version >> 24);
  token_bytes[1] = static_cast<uint8_t>(version >> 16);
  token_bytes[2] = static_cast<uint8_t>(version >> 8);
  token_bytes[3] = static_cast<uint8_t>(version);
}

}  // namespace keystore
