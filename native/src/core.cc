#include "core.h"

#include <new>

#include <openssl/err.h>

#include "values.h"

namespace keystore {

Core* Core::Make(napi_env env, napi_value random_bytes) {
  Core* const core = new (std::nothrow) Core();
  if (core == nullptr) {
    Throw(env, "there is no memory");
    return nullptr;
  }
  core->gcm_cipher_ = EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr);
  core->ecb_cipher_ = EVP_CIPHER_fetch(nullptr, "AES-256-ECB", nullptr);
  const bool is_ready = core->gcm_cipher_ != nullptr && core->ecb_cipher_ != nullptr &&
                        core->sealing.Begin(core->gcm_cipher_, nullptr) &&
                        core->opening.Begin(core->gcm_cipher_, nullptr);
  if (!is_ready) {
    ERR_clear_error();
    Throw(env, "OpenSSL has no AES-256-GCM or AES-256-ECB");
  } else if (napi_create_reference(env, random_bytes, 1, &core->random_bytes_) == napi_ok) {
    return core;
  } else {
    Throw(env, "the function for random bytes cannot be kept");
  }
  core->Release();
  return nullptr;
}

Core::~Core() {
  EVP_CIPHER_free(gcm_cipher_);
  EVP_CIPHER_free(ecb_cipher_);
}

void Core::Release() {
  holders_ -= 1;
  if (holders_ == 0) delete this;
}

void Core::EnvironmentEnds(napi_env env) {
  if (random_bytes_ != nullptr) napi_delete_reference(env, random_bytes_);
  random_bytes_ = nullptr;
  nonces.Forget();
}

const uint8_t* Core::TakeNonce(napi_env env, size_t length) {
  if (nonces.NeedsRefill(length)) {
    napi_value random_bytes = nullptr;
    napi_value undefined = nullptr;
    napi_value pool = nullptr;
    if (random_bytes_ == nullptr || napi_get_reference_value(env, random_bytes_, &random_bytes) != napi_ok ||
        napi_get_undefined(env, &undefined) != napi_ok ||
        napi_call_function(env, undefined, random_bytes, 0, nullptr, &pool) != napi_ok) {
      Throw(env, "there are no random bytes");
      return nullptr;
    }
    Bytes fresh;
    if (!BytesOf(env, pool, "random bytes", &fresh)) return nullptr;
    if (!nonces.Refill(fresh.data, fresh.length)) {
      Throw(env, "there must be 24 to 65536 random bytes, and memory for them");
      return nullptr;
    }
  }
  return nonces.Take(length);
}

}  // namespace keystore
