// Base64url, RFC 4648 section 5, as docs/FORMAT.md has it: written without padding, read strictly (v3) or leniently (v2).
#pragma once
#include <cstddef>
#include <cstdint>

namespace keystore {

// What decoding returns for a text that is refused.
constexpr size_t kNotBase64 = SIZE_MAX;

// Characters of so many bytes, unpadded. The caller has bounded `bytes`, so that nothing overflows.
constexpr size_t EncodedLength(size_t bytes) { return bytes / 3 * 4 + (bytes % 3 == 0 ? 0 : bytes % 3 + 1); }

// Bytes that so many characters can hold at most.
constexpr size_t MostDecoded(size_t characters) { return characters / 4 * 3 + 3; }

// Writes EncodedLength(length) characters to `out`, which must not overlap `bytes`.
void EncodeBase64Url(const uint8_t* bytes, size_t length, char* out);

// `-` and `_` only, no padding, and the bits that a last character has to spare are zero, so that bytes have one text only.
// `out` has MostDecoded(length) bytes. Returns how many were written, or kNotBase64.
size_t DecodeBase64UrlStrict(const char16_t* text, size_t length, uint8_t* out);

// Both alphabets, also mixed; padded or not; spare bits are ignored. Nothing else passes, white space included.
size_t DecodeBase64Lenient(const char16_t* text, size_t length, uint8_t* out);

// How many bytes the same would decode to, or kNotBase64: several times as fast.
size_t CheckBase64UrlStrict(const char16_t* text, size_t length);
size_t CheckBase64Lenient(const char16_t* text, size_t length);

}  // namespace keystore
