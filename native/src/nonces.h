// Random bytes for nonces, each given out once, drawn from JavaScript's generator a pool at a time.
#pragma once
#include <cstddef>
#include <cstdint>

namespace keystore {

class Nonces {
 public:
  static constexpr size_t kLeastRefill = 24;
  static constexpr size_t kMostRefill = 64 * 1024;

  ~Nonces();

  // Whether the pool holds no nonce of this length, or is older than a second, or from the future (the clock was set back). A process that was
  // frozen into a virtual machine's snapshot and started twice then stops repeating nonces soon.
  bool NeedsRefill(size_t length) const;

  // Puts a copy in the place of the rest of the pool. False if there is no memory, or `length` is out of bounds.
  bool Refill(const uint8_t* bytes, size_t length);

  // The next bytes, valid until the next call. Only after NeedsRefill said no.
  const uint8_t* Take(size_t length);

  void Forget();

 private:
  uint8_t* bytes_ = nullptr;
  size_t length_ = 0;
  size_t at_ = 0;
  int64_t made_at_ms_ = 0;
};

}  // namespace keystore
