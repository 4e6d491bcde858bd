// What all keys of one `createCore` share: ciphers, scratch memory, nonces. It belongs to one environment of Node, so to one thread.
#pragma once
#include <node_api.h>

#include "ciphers.h"
#include "nonces.h"
#include "secret_memory.h"

namespace keystore {

// The bytes of the token that was checked last: mostly it is opened next, and is then not read and decoded again.
struct CheckedToken {
  static constexpr size_t kMostCharacters = 2048;
  static constexpr size_t kRoom = kMostCharacters / 4 * 3 + 3;

  // Which call checked it, by a number that JavaScript gave and gives once. 0: there is none.
  double ticket = 0;
  bool is_v3 = false;
  size_t length = 0;
  uint8_t bytes[kRoom];
};

class Core {
 public:
  // Null if OpenSSL or the memory refuses. The caller holds the first reference.
  static Core* Make(napi_env env, napi_value random_bytes);

  // Keys may be collected after the environment has let go of the core, so it counts who needs it.
  void Hold() { holders_ += 1; }
  void Release();

  // The next `length` random bytes. Null if there are none: an exception is then pending in JavaScript. It may run JavaScript: call it before
  // any pointer into JavaScript's memory is taken, or any scratch.
  const uint8_t* TakeNonce(napi_env env, size_t length);

  const EVP_CIPHER* gcm() const { return gcm_cipher_; }
  const EVP_CIPHER* ecb() const { return ecb_cipher_; }

  // Shared by all keys of v3, whose GCM keys are derived for each token.
  Gcm sealing;
  Gcm opening;
  // A string of JavaScript's, the bytes of a token, and its characters.
  Scratch string;
  Scratch bytes;
  Scratch characters;
  Nonces nonces;
  CheckedToken checked;

  // The environment ends: JavaScript must not be called any more.
  void EnvironmentEnds(napi_env env);

 private:
  Core() = default;
  ~Core();

  int holders_ = 1;
  napi_ref random_bytes_ = nullptr;
  EVP_CIPHER* gcm_cipher_ = nullptr;
  EVP_CIPHER* ecb_cipher_ = nullptr;
};

}  // namespace keystore
