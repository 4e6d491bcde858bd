#include "xaes.h"

#include <cstring>

#include <openssl/crypto.h>

#include "secret_memory.h"

namespace keystore {
namespace {

// Blocks 1 and 2 are the GCM key, block 3 goes into the commitment.
constexpr size_t kDerivedBytes = 3 * kBlockBytes;

// Multiplication by x in GF(2^128), in place, without a branch on the key.
void Double(uint8_t* block) {
  const uint8_t carry = block[0] >> 7;
  for (size_t at = 0; at < kBlockBytes - 1; at += 1)
    block[at] = static_cast<uint8_t>(block[at] << 1 | block[at + 1] >> 7);
  block[kBlockBytes - 1] = static_cast<uint8_t>(block[kBlockBytes - 1] << 1 ^ carry * 0x87);
}

}  // namespace

XaesKey::~XaesKey() { OPENSSL_cleanse(k1_, sizeof(k1_)); }

bool XaesKey::Begin(const EVP_CIPHER* ecb, const uint8_t* key) {
  if (!ecb_.Begin(ecb, key) || !ecb_.Encrypt(k1_, k1_, kBlockBytes)) return false;
  Double(k1_);
  return true;
}

bool XaesKey::Derive(const uint8_t* nonce, uint8_t* derived, uint8_t* commitment) {
  static constexpr uint8_t kFirst[4] = {0, 1, 0x58, 0};
  static constexpr uint8_t kSecond[4] = {0, 2, 0x58, 0};
  static constexpr uint8_t kCommit[4] = {'X', 'C', 'M', 'T'};
  uint8_t* const first = derived;
  uint8_t* const second = derived + kBlockBytes;
  uint8_t* const third = derived + 2 * kBlockBytes;
  std::memcpy(first, kFirst, 4);
  std::memcpy(first + 4, nonce, 12);
  std::memcpy(second, kSecond, 4);
  std::memcpy(second + 4, nonce, 12);
  std::memcpy(third, kCommit, 4);
  std::memcpy(third + 4, nonce, 12);
  for (size_t at = 0; at < kBlockBytes; at += 1) {
    first[at] ^= k1_[at];
    second[at] ^= k1_[at];
  }
  if (!ecb_.Encrypt(derived, derived, kDerivedBytes)) return false;

  // K1 xor C xor (N[12:24] || 00 01 00 01), and the same with 02 at its end.
  static constexpr uint8_t kCounter[4] = {0, 1, 0, 1};
  uint8_t tail[kBlockBytes];
  std::memcpy(tail, nonce + 12, 12);
  std::memcpy(tail + 12, kCounter, 4);
  for (size_t at = 0; at < kBlockBytes; at += 1) tail[at] ^= k1_[at] ^ third[at];
  std::memcpy(commitment, tail, kBlockBytes);
  std::memcpy(commitment + kBlockBytes, tail, kBlockBytes);
  commitment[kCommitmentBytes - 1] ^= 1 ^ 2;
  OPENSSL_cleanse(tail, sizeof(tail));
  return ecb_.Encrypt(commitment, commitment, kCommitmentBytes);
}

Outcome XaesKey::Seal(Gcm& gcm, const uint8_t* nonce, Bytes aad, uint8_t* text, size_t length, uint8_t* tag,
                      uint8_t* commitment) {
  SecretBytes<kDerivedBytes> derived;
  if (!Derive(nonce, derived.data(), commitment)) return Outcome::kFailed;
  return gcm.Seal(derived.data(), nonce + 12, aad, text, length, tag);
}

Outcome XaesKey::Open(Gcm& gcm, const uint8_t* nonce, Bytes aad, uint8_t* text, size_t length, const uint8_t* tag,
                      const uint8_t* commitment) {
  SecretBytes<kDerivedBytes> derived;
  SecretBytes<kCommitmentBytes> expected;
  if (!Derive(nonce, derived.data(), expected.data())) return Outcome::kFailed;
  if (CRYPTO_memcmp(expected.data(), commitment, kCommitmentBytes) != 0) return Outcome::kRefused;
  return gcm.Open(derived.data(), nonce + 12, aad, text, length, tag);
}

}  // namespace keystore
