#include "limit.h"

#include <cstring>

#include <openssl/rand.h>

#include "base64.h"
#include "core.h"
#include "token.h"
#include "utf8.h"
#include "values.h"
#include "xaes.h"

namespace keystore {
namespace {

constexpr size_t kMostCharacters = 4 * 1024 * 1024;

struct Loop {
  XaesKey key;
  Gcm gcm;
  Nonces nonces;
  Scratch text;
  Scratch bytes;
  Scratch characters;
  Scratch token;

  bool Begin() {
    EVP_CIPHER* const ecb = EVP_CIPHER_fetch(nullptr, "AES-256-ECB", nullptr);
    EVP_CIPHER* const aes = EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr);
    SecretBytes<kKeyBytes> random;
    const bool is_ready = RAND_bytes(random.data(), kKeyBytes) == 1 && key.Begin(ecb, random.data()) &&
                          gcm.Begin(aes, nullptr);
    EVP_CIPHER_free(ecb);
    EVP_CIPHER_free(aes);
    return is_ready;
  }

  const uint8_t* TakeNonce() {
    uint8_t pool[12 * 1024];
    if (nonces.NeedsRefill(kXaesNonceBytes) &&
        (RAND_bytes(pool, sizeof(pool)) != 1 || !nonces.Refill(pool, sizeof(pool))))
      return nullptr;
    return nonces.Take(kXaesNonceBytes);
  }
};

// What the key of a user is bound to is about as long.
constexpr uint8_t kAad[80] = {};

// Returns the token's characters, 0 if it failed.
size_t SealOnce(Loop& loop, const char16_t* text, size_t units, char* token) {
  const size_t length = Utf8Length(text, units);
  Scratch::Loan bytes(loop.bytes, kV3Overhead + length, Scratch::kSecret);
  const uint8_t* const nonce = loop.TakeNonce();
  if (nonce == nullptr || bytes.data() == nullptr || length == kIllFormed) return 0;
  uint8_t* const sealed = bytes.data() + kVersionBytes;
  uint8_t* const body = sealed + kXaesNonceBytes;
  WriteUtf8(text, units, body, length);
  PutVersion(1, bytes.data());
  std::memcpy(sealed, nonce, kXaesNonceBytes);
  if (loop.key.Seal(loop.gcm, sealed, {kAad, sizeof(kAad)}, body, length, body + length,
                    body + length + kGcmTagBytes) != Outcome::kDone)
    return 0;
  WriteToken(Format::kV3, bytes.data(), kV3Overhead + length, token);
  return TokenCharacters(Format::kV3, kV3Overhead + length);
}

bool OpenOnce(Loop& loop, const char16_t* token, size_t units) {
  Scratch::Loan bytes(loop.bytes, MostDecoded(units), Scratch::kSecret);
  if (bytes.data() == nullptr) return false;
  const size_t token_bytes = ReadToken(Format::kV3, token, units, bytes.data());
  if (token_bytes == 0) return false;
  const size_t length = token_bytes - kV3Overhead;
  uint8_t* const body = bytes.data() + kV3FrontBytes;
  return loop.key.Open(loop.gcm, bytes.data() + kVersionBytes, {kAad, sizeof(kAad)}, body, length, body + length,
                       body + length + kGcmTagBytes) == Outcome::kDone &&
         KindOf(body, length) == TextKind::kAscii;
}

}  // namespace

napi_value Limit(napi_env env, napi_callback_info info) {
  Call<3> call;
  if (!call.Read(env, info)) return nullptr;
  char operation[8] = {};
  uint32_t units = 0;
  uint32_t times = 0;
  size_t copied = 0;
  if (napi_get_value_string_utf8(env, call.arguments[0], operation, sizeof(operation), &copied) != napi_ok ||
      napi_get_value_uint32(env, call.arguments[1], &units) != napi_ok || units > kMostCharacters ||
      napi_get_value_uint32(env, call.arguments[2], &times) != napi_ok) {
    ThrowType(env, "limit takes an operation, a number of characters and how often");
    return nullptr;
  }
  Loop loop;
  const size_t most_characters = TokenCharacters(Format::kV3, kV3Overhead + units);
  Scratch::Loan text_room(loop.text, (units + 1) * sizeof(char16_t), Scratch::kPublic);
  Scratch::Loan character_room(loop.characters, most_characters, Scratch::kPublic);
  Scratch::Loan token_room(loop.token, most_characters * sizeof(char16_t), Scratch::kPublic);
  char16_t* const text = reinterpret_cast<char16_t*>(text_room.data());
  char* const characters = reinterpret_cast<char*>(character_room.data());
  char16_t* const token = reinterpret_cast<char16_t*>(token_room.data());
  if (text == nullptr || characters == nullptr || token == nullptr || !loop.Begin()) {
    Throw(env, "the loop cannot begin");
    return nullptr;
  }
  for (size_t at = 0; at < units; at += 1) text[at] = u'x';
  const size_t token_units = SealOnce(loop, text, units, characters);
  for (size_t at = 0; at < token_units; at += 1) token[at] = static_cast<char16_t>(characters[at]);
  const bool is_sealing = std::strcmp(operation, "seal") == 0;
  for (uint32_t time = 0; time < times; time += 1) {
    if (is_sealing ? SealOnce(loop, text, units, characters) > 0 : OpenOnce(loop, token, token_units)) continue;
    Throw(env, "the loop failed");
    return nullptr;
  }
  return Undefined(env);
}

}  // namespace keystore
