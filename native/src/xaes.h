// XAES-256-GCM (c2sp.org/XAES-256-GCM) with the key commitment of KC-XAES (eprint 2025/758): what src/format/aead.ts does.
#pragma once
#include "ciphers.h"

namespace keystore {

constexpr size_t kXaesNonceBytes = 24;
constexpr size_t kCommitmentBytes = 32;

// A key, as the cipher that derives from it. One thread at a time.
class XaesKey {
 public:
  bool Begin(const EVP_CIPHER* ecb, const uint8_t* key);

  // Encrypts `text` in place by `gcm`, which any number of keys share; `nonce` has 24 bytes.
  Outcome Seal(Gcm& gcm, const uint8_t* nonce, Bytes aad, uint8_t* text, size_t length, uint8_t* tag,
               uint8_t* commitment);

  // Compares the commitment first, in constant time, and only then decrypts `text` in place.
  Outcome Open(Gcm& gcm, const uint8_t* nonce, Bytes aad, uint8_t* text, size_t length, const uint8_t* tag,
               const uint8_t* commitment);

 private:
  bool Derive(const uint8_t* nonce, uint8_t* gcm_key_and_more, uint8_t* commitment);

  Blocks ecb_;
  // K1: AES(K, 0^128) doubled in GF(2^128), the CMAC subkey of NIST SP 800-38B section 6.1.
  uint8_t k1_[kBlockBytes] = {};

 public:
  ~XaesKey();
};

}  // namespace keystore
