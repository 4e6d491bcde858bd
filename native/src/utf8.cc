#include "utf8.h"

#include <cstring>

namespace keystore {
namespace {

bool IsHighSurrogate(uint32_t unit) { return (unit & 0xfc00) == 0xd800; }
bool IsLowSurrogate(uint32_t unit) { return (unit & 0xfc00) == 0xdc00; }

// Whether one of the units is none of ASCII. Compilers turn the loop into vector instructions.
bool IsAscii(const char16_t* text, size_t length) {
  uint32_t seen = 0;
  for (size_t at = 0; at < length; at += 1) seen |= text[at];
  return seen < 0x80;
}

constexpr size_t kWord = sizeof(uint64_t);
constexpr uint64_t kHighBits = 0x8080808080808080;

// Where the first byte outside ASCII is, or a little before it.
size_t AsciiPrefix(const uint8_t* bytes, size_t length) {
  size_t at = 0;
  for (; at + kWord <= length; at += kWord) {
    uint64_t word;
    std::memcpy(&word, bytes + at, kWord);
    if ((word & kHighBits) != 0) break;
  }
  return at;
}

bool IsContinuation(uint8_t byte) { return (byte & 0xc0) == 0x80; }

// The bytes of the character that begins here, 2 to 4; 0 if it is none. `left` is at least 1, and the first byte is not ASCII.
size_t CharacterBytes(const uint8_t* bytes, size_t left) {
  const uint8_t first = bytes[0];
  if (first < 0xc2 || first > 0xf4) return 0;
  const size_t count = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (left < count) return 0;
  for (size_t at = 1; at < count; at += 1)
    if (!IsContinuation(bytes[at])) return 0;
  const uint8_t second = bytes[1];
  // Over-long, surrogates, over-long, above U+10FFFF.
  if (first == 0xe0 && second < 0xa0) return 0;
  if (first == 0xed && second > 0x9f) return 0;
  if (first == 0xf0 && second < 0x90) return 0;
  if (first == 0xf4 && second > 0x8f) return 0;
  return count;
}

}  // namespace

size_t Utf8Length(const char16_t* text, size_t length) {
  if (IsAscii(text, length)) return length;
  size_t bytes = 0;
  for (size_t at = 0; at < length; at += 1) {
    const uint32_t unit = text[at];
    if (unit < 0x80) {
      bytes += 1;
    } else if (unit < 0x800) {
      bytes += 2;
    } else if (IsHighSurrogate(unit)) {
      if (at + 1 == length || !IsLowSurrogate(text[at + 1])) return kIllFormed;
      at += 1;
      bytes += 4;
    } else if (IsLowSurrogate(unit)) {
      return kIllFormed;
    } else {
      bytes += 3;
    }
  }
  return bytes;
}

void WriteUtf8(const char16_t* text, size_t length, uint8_t* out, size_t bytes) {
  if (bytes == length) {
    for (size_t at = 0; at < length; at += 1) out[at] = static_cast<uint8_t>(text[at]);
    return;
  }
  for (size_t at = 0; at < length; at += 1) {
    uint32_t code = text[at];
    if (code < 0x80) {
      *out++ = static_cast<uint8_t>(code);
      continue;
    }
    if (code < 0x800) {
      *out++ = static_cast<uint8_t>(0xc0 | code >> 6);
    } else {
      if (IsHighSurrogate(code)) {
        at += 1;
        code = 0x10000 + ((code & 0x3ff) << 10 | (text[at] & 0x3ffu));
        *out++ = static_cast<uint8_t>(0xf0 | code >> 18);
        *out++ = static_cast<uint8_t>(0x80 | (code >> 12 & 0x3f));
      } else {
        *out++ = static_cast<uint8_t>(0xe0 | code >> 12);
      }
      *out++ = static_cast<uint8_t>(0x80 | (code >> 6 & 0x3f));
    }
    *out++ = static_cast<uint8_t>(0x80 | (code & 0x3f));
  }
}

TextKind KindOf(const uint8_t* bytes, size_t length) {
  bool is_ascii = true;
  for (size_t at = AsciiPrefix(bytes, length); at < length;) {
    if (bytes[at] < 0x80) {
      at += 1;
      continue;
    }
    is_ascii = false;
    const size_t count = CharacterBytes(bytes + at, length - at);
    if (count == 0) return TextKind::kNoText;
    at += count;
    if (at < length && bytes[at] < 0x80) at += AsciiPrefix(bytes + at, length - at);
  }
  return is_ascii ? TextKind::kAscii : TextKind::kUtf8;
}

}  // namespace keystore
