// Wrapped keys for JavaScript: bytes in, bytes out. What differs between the formats is passed as a function.
#pragma once
#include <cstring>

#include "ciphers.h"
#include "secret_memory.h"
#include "values.h"

namespace keystore {

constexpr size_t kMostWrapped = 1024;

// A Buffer with a wrapped key, which stands behind `kFront` bytes. `seal(bytes, length)` encrypts the key of that length in place, and fills in
// what is before and after it.
template <size_t kFront, size_t kOverhead, typename Seal>
napi_value WrapKey(napi_env env, napi_value key, Seal seal) {
  Bytes given;
  if (!BytesOf(env, key, "key", &given)) return nullptr;
  if (given.length > kMostWrapped) {
    ThrowType(env, "key must have at most 1024 bytes");
    return nullptr;
  }
  SecretBytes<kOverhead + kMostWrapped> wrapped;
  if (given.length > 0) std::memcpy(wrapped.data() + kFront, given.data, given.length);
  if (seal(wrapped.data(), given.length) != Outcome::kDone) {
    Throw(env, "OpenSSL did not encrypt");
    return nullptr;
  }
  return CopiedBuffer(env, wrapped.data(), kOverhead + given.length);
}

// The key of 32 bytes in a wrap; JavaScript's null if there is none. `open(bytes, length)` decrypts it in place.
template <size_t kFront, size_t kOverhead, typename Open>
napi_value UnwrapKey(napi_env env, napi_value wrapped, Open open) {
  Bytes given;
  if (!BytesOf(env, wrapped, "wrapped", &given)) return nullptr;
  if (given.length != kOverhead + kKeyBytes) return Null(env);
  SecretBytes<kOverhead + kKeyBytes> bytes;
  std::memcpy(bytes.data(), given.data, given.length);
  switch (open(bytes.data(), kKeyBytes)) {
    case Outcome::kDone:
      return CopiedBuffer(env, bytes.data() + kFront, kKeyBytes);
    case Outcome::kRefused:
      return Null(env);
    case Outcome::kFailed:
      break;
  }
  Throw(env, "OpenSSL did not decrypt");
  return nullptr;
}

}  // namespace keystore
