// Memory for keys and plaintexts, zeroed after use.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include <openssl/crypto.h>

namespace keystore {

// An array on the stack that is zeroed at the end of its block.
template <size_t kLength>
class SecretBytes {
 public:
  SecretBytes() = default;
  ~SecretBytes() { OPENSSL_cleanse(bytes_, kLength); }
  SecretBytes(const SecretBytes&) = delete;
  SecretBytes& operator=(const SecretBytes&) = delete;

  uint8_t* data() { return bytes_; }
  const uint8_t* data() const { return bytes_; }

 private:
  uint8_t bytes_[kLength];
};

// Room for one call's work, kept for the next one unless it is large. Nothing secret is left in it.
class Scratch {
 public:
  enum Content { kSecret, kPublic };

  Scratch() = default;
  ~Scratch() { std::free(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // The room, for as long as the Loan lives; null if there is no memory. One Loan at a time.
  class Loan {
   public:
    Loan(Scratch& scratch, size_t bytes, Content content)
        : scratch_(scratch), data_(scratch.Reserve(bytes)), secret_bytes_(content == kSecret ? bytes : 0) {}
    ~Loan() {
      if (data_ == nullptr) return;
      if (secret_bytes_ > 0) OPENSSL_cleanse(data_, secret_bytes_);
      scratch_.DropIfLarge();
    }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;

    uint8_t* data() const { return data_; }

    // Of a loan that turned out to be larger than needed: no more than this was written.
    void Used(size_t bytes) {
      if (bytes < secret_bytes_) secret_bytes_ = bytes;
    }

   private:
    Scratch& scratch_;
    uint8_t* data_;
    size_t secret_bytes_;
  };

 private:
  static constexpr size_t kLeast = 4096;
  static constexpr size_t kMostKept = 256 * 1024;

  uint8_t* Reserve(size_t bytes) {
    if (bytes <= capacity_) return memory_;
    std::free(memory_);
    capacity_ = bytes < kLeast ? kLeast : bytes;
    memory_ = static_cast<uint8_t*>(std::malloc(capacity_));
    if (memory_ == nullptr) capacity_ = 0;
    return memory_;
  }

  void DropIfLarge() {
    if (capacity_ <= kMostKept) return;
    std::free(memory_);
    memory_ = nullptr;
    capacity_ = 0;
  }

  uint8_t* memory_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace keystore
