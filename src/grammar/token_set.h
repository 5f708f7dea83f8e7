#pragma once

#include <bit>
#include <cstdint>
#include <vector>

namespace cambium {

// One bit a token.
class TokenSet {
 public:
  explicit TokenSet(int32_t tokens) : words_((static_cast<size_t>(tokens) + 63) / 64) {}
  bool has(int32_t id) const { return words_[static_cast<size_t>(id) / 64] >> (id % 64) & 1; }
  void Add(int32_t id) { words_[static_cast<size_t>(id) / 64] |= uint64_t{1} << (id % 64); }
  void Add(const TokenSet& other) {
    for (size_t i = 0; i < words_.size(); ++i) words_[i] |= other.words_[i];
  }
  // Of those in the set, in order; all where there are fewer than `most`.
  std::vector<int32_t> First(size_t most) const {
    std::vector<int32_t> ids;
    for (size_t i = 0; i < words_.size() && ids.size() < most; ++i) {
      for (uint64_t word = words_[i]; word != 0 && ids.size() < most; word &= word - 1) {
        ids.push_back(static_cast<int32_t>(i * 64) + std::countr_zero(word));
      }
    }
    return ids;
  }
  const std::vector<uint64_t>& words() const { return words_; }

 private:
  std::vector<uint64_t> words_;
};

}  // namespace cambium
