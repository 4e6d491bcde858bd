// UTF-16, as JavaScript's strings are, to UTF-8 and back: nothing is ever replaced.
#pragma once
#include <cstddef>
#include <cstdint>

namespace keystore {

// What is returned for a text with a lone surrogate: it has no UTF-8.
constexpr size_t kIllFormed = SIZE_MAX;

// Bytes that `text` takes in UTF-8, or kIllFormed.
size_t Utf8Length(const char16_t* text, size_t length);

// Writes a well-formed text. `bytes` is its Utf8Length.
void WriteUtf8(const char16_t* text, size_t length, uint8_t* out, size_t bytes);

enum class TextKind { kAscii, kUtf8, kNoText };

// Whether bytes are UTF-8 (RFC 3629 section 4): no surrogate, nothing over-long, nothing above U+10FFFF.
TextKind KindOf(const uint8_t* bytes, size_t length);

}  // namespace keystore
