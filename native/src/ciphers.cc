#include "ciphers.h"

#include <climits>

#include <openssl/crypto.h>
#include <openssl/err.h>

namespace keystore {
namespace {

// OpenSSL's lengths are ints. A JavaScript string, so a token, is shorter than 2^29.
bool Fits(size_t length) { return length <= INT_MAX; }

// What is left in the thread's queue of errors would be reported by node:crypto for a call of its own.
Outcome Failed(Outcome outcome) {
  ERR_clear_error();
  return outcome;
}

}  // namespace

bool Gcm::Begin(const EVP_CIPHER* cipher, const uint8_t* key) {
  if (context_.get() == nullptr) return false;
  if (EVP_EncryptInit_ex(context_.get(), cipher, nullptr, key, nullptr) == 1) return true;
  ERR_clear_error();
  return false;
}

bool Gcm::Start(const uint8_t* key, const uint8_t* nonce, Bytes aad, bool is_sealing) {
  if (EVP_CipherInit_ex(context_.get(), nullptr, nullptr, key, nonce, is_sealing ? 1 : 0) != 1) return false;
  if (aad.length == 0) return true;
  int written = 0;
  return Fits(aad.length) &&
         EVP_CipherUpdate(context_.get(), nullptr, &written, aad.data, static_cast<int>(aad.length)) == 1;
}

Outcome Gcm::Seal(const uint8_t* key, const uint8_t* nonce, Bytes aad, uint8_t* text, size_t length, uint8_t* tag) {
  if (!Fits(length) || !Start(key, nonce, aad, true)) return Failed(Outcome::kFailed);
  int written = 0;
  if (length > 0) {
    if (EVP_EncryptUpdate(context_.get(), text, &written, text, static_cast<int>(length)) != 1 ||
        static_cast<size_t>(written) != length)
      return Failed(Outcome::kFailed);
  }
  uint8_t none[kBlockBytes];
  if (EVP_EncryptFinal_ex(context_.get(), none, &written) != 1 || written != 0) return Failed(Outcome::kFailed);
  if (EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_AEAD_GET_TAG, static_cast<int>(kGcmTagBytes), tag) != 1)
    return Failed(Outcome::kFailed);
  return Outcome::kDone;
}

Outcome Gcm::Open(const uint8_t* key, const uint8_t* nonce, Bytes aad, uint8_t* text, size_t length,
                  const uint8_t* tag) {
  int written = 0;
  // OpenSSL takes the tag as one that it might write to.
  void* const expected = const_cast<uint8_t*>(tag);
  const bool is_ready = Fits(length) && Start(key, nonce, aad, false) &&
                        EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_AEAD_SET_TAG, static_cast<int>(kGcmTagBytes),
                                            expected) == 1;
  const bool is_decrypted =
      is_ready &&
      (length == 0 || (EVP_DecryptUpdate(context_.get(), text, &written, text, static_cast<int>(length)) == 1 &&
                       static_cast<size_t>(written) == length));
  if (!is_decrypted) {
    OPENSSL_cleanse(text, length);
    return Failed(Outcome::kFailed);
  }
  uint8_t none[kBlockBytes];
  if (EVP_DecryptFinal_ex(context_.get(), none, &written) == 1) return Outcome::kDone;
  OPENSSL_cleanse(text, length);
  return Failed(Outcome::kRefused);
}

void Gcm::Forget() {
  static constexpr uint8_t kZeros[kKeyBytes] = {};
  if (EVP_EncryptInit_ex(context_.get(), nullptr, nullptr, kZeros, kZeros) != 1) ERR_clear_error();
}

bool Blocks::Begin(const EVP_CIPHER* cipher, const uint8_t* key) {
  if (context_.get() == nullptr) return false;
  if (EVP_EncryptInit_ex(context_.get(), cipher, nullptr, key, nullptr) == 1 &&
      EVP_CIPHER_CTX_set_padding(context_.get(), 0) == 1)
    return true;
  ERR_clear_error();
  return false;
}

bool Blocks::Encrypt(const uint8_t* in, uint8_t* out, size_t length) {
  int written = 0;
  if (EVP_EncryptUpdate(context_.get(), out, &written, in, static_cast<int>(length)) == 1 &&
      static_cast<size_t>(written) == length)
    return true;
  ERR_clear_error();
  return false;
}

}  // namespace keystore
