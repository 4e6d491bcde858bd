// Tokens as text, and what is in them (docs/FORMAT.md). Nothing here is authenticated yet.
#pragma once
#include <cstddef>
#include <cstdint>

#include "ciphers.h"
#include "xaes.h"

namespace keystore {

constexpr size_t kPrefixCharacters = 3;
constexpr size_t kVersionBytes = 4;
constexpr uint32_t kMaxVersion = 0x7fffffff;

// `version[4] || nonce[24] || ciphertext || tag[16] || commitment[32]`
constexpr size_t kV3FrontBytes = kVersionBytes + kXaesNonceBytes;
constexpr size_t kV3Overhead = kV3FrontBytes + kGcmTagBytes + kCommitmentBytes;
// `nonce[12] || ciphertext || tag[16]`
constexpr size_t kV2Overhead = kGcmNonceBytes + kGcmTagBytes;

// A string of JavaScript has fewer characters than this, so a token holds no longer plaintext.
constexpr size_t kMostPlaintext = (static_cast<size_t>(1) << 29) / 4 * 3;

enum class Format { kV2, kV3 };

// Characters of the token of so many bytes.
size_t TokenCharacters(Format format, size_t bytes);

// Writes TokenCharacters(format, length) characters.
void WriteToken(Format format, const uint8_t* bytes, size_t length, char* out);

// Decodes a token into MostDecoded(length) bytes. Returns how many there are, or 0 if the text is malformed as a token of this format.
size_t ReadToken(Format format, const char16_t* text, size_t length, uint8_t* out);

// The version of the key that a token of either format names, 1 for v2; 0 if the text is malformed.
uint32_t CheckToken(const char16_t* text, size_t length);

uint32_t VersionOf(const uint8_t* token_bytes);
void PutVersion(uint32_t version, uint8_t* token_bytes);

}  // namespace keystore
