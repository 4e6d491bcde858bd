// AES-256-GCM and AES-256-ECB by OpenSSL's EVP. Every return code is looked at.
#pragma once
#include <cstddef>
#include <cstdint>

#include <openssl/evp.h>

namespace keystore {

constexpr size_t kKeyBytes = 32;
constexpr size_t kBlockBytes = 16;
constexpr size_t kGcmNonceBytes = 12;
constexpr size_t kGcmTagBytes = 16;

enum class Outcome {
  kDone,
  // What was given is not authentic.
  kRefused,
  // OpenSSL did not do its work.
  kFailed,
};

// Bytes that others own.
struct Bytes {
  const uint8_t* data;
  size_t length;
};

// A cipher context, and its end.
class Context {
 public:
  Context() : context_(EVP_CIPHER_CTX_new()) {}
  ~Context() { EVP_CIPHER_CTX_free(context_); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  EVP_CIPHER_CTX* get() const { return context_; }

 private:
  EVP_CIPHER_CTX* const context_;
};

// AES-256-GCM (NIST SP 800-38D) with a 96-bit nonce and a whole tag. One thread at a time.
class Gcm {
 public:
  // False if OpenSSL has no such cipher. `key` is null for a context that gets one in each call.
  bool Begin(const EVP_CIPHER* cipher, const uint8_t* key);

  // Encrypts `text` in place. `key` null: that of Begin.
  Outcome Seal(const uint8_t* key, const uint8_t* nonce, Bytes aad, uint8_t* text, size_t length, uint8_t* tag);

  // Decrypts `text` in place. Unless the outcome is kDone, `text` is zeroed: no plaintext leaves before its tag is verified.
  Outcome Open(const uint8_t* key, const uint8_t* nonce, Bytes aad, uint8_t* text, size_t length, const uint8_t* tag);

  // Puts a key of zeros in the place of the last one.
  void Forget();

 private:
  bool Start(const uint8_t* key, const uint8_t* nonce, Bytes aad, bool is_sealing);

  Context context_;
};

// Single AES-256 blocks: one thread at a time.
class Blocks {
 public:
  bool Begin(const EVP_CIPHER* cipher, const uint8_t* key);

  // Encrypts whole blocks. `in` may be `out`.
  bool Encrypt(const uint8_t* in, uint8_t* out, size_t length);

 private:
  Context context_;
};

}  // namespace keystore
