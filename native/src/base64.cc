#include "base64.h"

#include <array>
#include <cstring>

namespace keystore {
namespace {

constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

struct CharacterPair {
  char characters[2];
};

// Two characters for each 12 bits: half the look-ups. 8 KiB.
constexpr std::array<CharacterPair, 4096> MakePairs() {
  std::array<CharacterPair, 4096> pairs{};
  for (size_t bits = 0; bits < 4096; bits += 1) {
    pairs[bits].characters[0] = kAlphabet[bits >> 6];
    pairs[bits].characters[1] = kAlphabet[bits & 63];
  }
  return pairs;
}

constexpr auto kPairs = MakePairs();

// Above every sum of four values: marks a character outside the alphabet. It survives the OR of any number of them.
constexpr uint32_t kForeign = 0x80000000;

// The values of the four characters of 24 bits, each where it belongs.
struct Values {
  std::array<std::array<uint32_t, 256>, 4> at;
};

constexpr Values MakeValues(bool takes_both) {
  Values values{};
  for (size_t place = 0; place < 4; place += 1) {
    auto& value = values.at[place];
    const size_t shift = 18 - 6 * place;
    for (auto& any : value) any = kForeign;
    for (uint32_t index = 0; index < 64; index += 1) value[static_cast<uint8_t>(kAlphabet[index])] = index << shift;
    if (takes_both) {
      value['+'] = 62u << shift;
      value['/'] = 63u << shift;
    }
  }
  return values;
}

constexpr Values kUrlValues = MakeValues(false);
constexpr Values kBothValues = MakeValues(true);

size_t Decode(const Values& values, const char16_t* text, size_t length, bool is_strict, uint8_t* out) {
  const size_t tail = length % 4;
  if (tail == 1) return kNotBase64;
  const char16_t* const end = text + (length - tail);
  uint8_t* to = out;
  // Gathered, and looked at once at the end: what is decoded of a foreign character is never returned. `units` is for characters above U+00FF:
  // U+0141 must not pass for "A".
  uint32_t seen = 0;
  uint32_t units = 0;
  const auto value = [&](size_t place, char16_t unit) { return values.at[place][unit & 0xff]; };
  for (; text != end; text += 4, to += 3) {
    units |= static_cast<uint32_t>(text[0] | text[1] | text[2] | text[3]);
    const uint32_t bits = value(0, text[0]) | value(1, text[1]) | value(2, text[2]) | value(3, text[3]);
    seen |= bits;
    to[0] = static_cast<uint8_t>(bits >> 16);
    to[1] = static_cast<uint8_t>(bits >> 8);
    to[2] = static_cast<uint8_t>(bits);
  }
  if (tail != 0) {
    const char16_t third = tail == 3 ? text[2] : u'A';
    units |= static_cast<uint32_t>(text[0] | text[1] | third);
    const uint32_t bits = value(0, text[0]) | value(1, text[1]) | value(2, third);
    seen |= bits;
    // Two characters carry 12 bits for 8, three carry 18 for 16 (RFC 4648 section 3.5).
    const uint32_t spare = bits & (tail == 2 ? 0xffff : 0xff);
    if (is_strict && spare != 0) return kNotBase64;
    *to++ = static_cast<uint8_t>(bits >> 16);
    if (tail == 3) *to++ = static_cast<uint8_t>(bits >> 8);
  }
  return (seen & kForeign) != 0 || units > 0xff ? kNotBase64 : static_cast<size_t>(to - out);
}

// Not 0 if a character is of the alphabet: of one unit, or of several at once in a vector of GCC's and Clang's.
template <bool kTakesBoth, typename Units>
Units IsOfAlphabet(Units unit) {
  const Units letter = static_cast<Units>((unit | 0x20) - 'a');
  const Units digit = static_cast<Units>(unit - '0');
  Units known = static_cast<Units>((letter < 26) | (digit < 10) | (unit == '-') | (unit == '_'));
  if (kTakesBoth) known = static_cast<Units>(known | static_cast<Units>((unit == '+') | (unit == '/')));
  return known;
}

template <bool kTakesBoth>
bool AreOfAlphabet(const char16_t* text, size_t length) {
  size_t at = 0;
#ifdef __GNUC__
  // Eight units in the time of one.
  typedef uint16_t Eight __attribute__((vector_size(16)));
  Eight foreign = {};
  for (; at + 8 <= length; at += 8) {
    Eight units;
    std::memcpy(&units, text + at, sizeof(units));
    foreign |= ~IsOfAlphabet<kTakesBoth>(units);
  }
  uint64_t halves[2];
  std::memcpy(halves, &foreign, sizeof(halves));
  if ((halves[0] | halves[1]) != 0) return false;
#endif
  for (; at < length; at += 1)
    if (IsOfAlphabet<kTakesBoth>(static_cast<uint16_t>(text[at])) == 0) return false;
  return true;
}

// Without its padding; kNotBase64 for a wrong one. Padding is all there or not at all (RFC 4648 section 3.2).
size_t UnpaddedLength(const char16_t* text, size_t length) {
  if (length == 0 || text[length - 1] != u'=') return length;
  if (length % 4 != 0) return kNotBase64;
  return length - (text[length - 2] == u'=' ? 2 : 1);
}

constexpr size_t DecodedLength(size_t characters) { return characters / 4 * 3 + (characters % 4 * 3) / 4; }

}  // namespace

void EncodeBase64Url(const uint8_t* bytes, size_t length, char* out) {
  const size_t tail = length % 3;
  const uint8_t* const end = bytes + (length - tail);
  for (; bytes != end; bytes += 3, out += 4) {
    const uint32_t bits = static_cast<uint32_t>(bytes[0]) << 16 | static_cast<uint32_t>(bytes[1]) << 8 | bytes[2];
    std::memcpy(out, kPairs[bits >> 12].characters, 2);
    std::memcpy(out + 2, kPairs[bits & 0xfff].characters, 2);
  }
  if (tail == 0) return;
  const uint32_t second = tail == 2 ? bytes[1] : 0;
  const uint32_t bits = static_cast<uint32_t>(bytes[0]) << 16 | second << 8;
  std::memcpy(out, kPairs[bits >> 12].characters, 2);
  if (tail == 2) out[2] = kAlphabet[bits >> 6 & 63];
}

size_t DecodeBase64UrlStrict(const char16_t* text, size_t length, uint8_t* out) {
  return Decode(kUrlValues, text, length, true, out);
}

size_t DecodeBase64Lenient(const char16_t* text, size_t length, uint8_t* out) {
  const size_t unpadded = UnpaddedLength(text, length);
  return unpadded == kNotBase64 ? kNotBase64 : Decode(kBothValues, text, unpadded, false, out);
}

size_t CheckBase64UrlStrict(const char16_t* text, size_t length) {
  const size_t tail = length % 4;
  uint8_t last[3];
  if (DecodeBase64UrlStrict(text + (length - tail), tail, last) == kNotBase64) return kNotBase64;
  return AreOfAlphabet<false>(text, length) ? DecodedLength(length) : kNotBase64;
}

size_t CheckBase64Lenient(const char16_t* text, size_t length) {
  const size_t unpadded = UnpaddedLength(text, length);
  if (unpadded == kNotBase64 || unpadded % 4 == 1) return kNotBase64;
  return AreOfAlphabet<true>(text, unpadded) ? DecodedLength(unpadded) : kNotBase64;
}

}  // namespace keystore
