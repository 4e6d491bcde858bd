#include "nonces.h"

#include <chrono>
#include <cstdlib>
#include <cstring>

#include <openssl/crypto.h>

namespace keystore {
namespace {

constexpr int64_t kLifeMs = 1000;

// By the clock of the wall: a monotonic one may stand still while the machine does.
int64_t NowMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

Nonces::~Nonces() { Forget(); }

bool Nonces::NeedsRefill(size_t length) const {
  if (length_ - at_ < length) return true;
  const int64_t age = NowMs() - made_at_ms_;
  return age > kLifeMs || age < 0;
}

bool Nonces::Refill(const uint8_t* bytes, size_t length) {
  Forget();
  if (bytes == nullptr || length < kLeastRefill || length > kMostRefill) return false;
  bytes_ = static_cast<uint8_t*>(std::malloc(length));
  if (bytes_ == nullptr) return false;
  std::memcpy(bytes_, bytes, length);
  length_ = length;
  made_at_ms_ = NowMs();
  return true;
}

const uint8_t* Nonces::Take(size_t length) {
  const uint8_t* const taken = bytes_ + at_;
  at_ += length;
  return taken;
}

void Nonces::Forget() {
  if (bytes_ != nullptr) OPENSSL_cleanse(bytes_, length_);
  std::free(bytes_);
  bytes_ = nullptr;
  length_ = 0;
  at_ = 0;
}

}  // namespace keystore
