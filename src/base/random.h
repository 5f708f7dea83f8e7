#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace cambium {

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): random numbers as a pure
// function of (key, counter), so that a draw depends on its place and not on who drew before it.
class Philox {
 public:
  using Block = std::array<uint32_t, 4>;

  explicit Philox(uint64_t key) : key_{static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)} {}

  // Four random words for the 128-bit counter (lo, hi).
  Block operator()(uint64_t lo, uint64_t hi = 0) const {
    Block c = {static_cast<uint32_t>(lo), static_cast<uint32_t>(lo >> 32), static_cast<uint32_t>(hi),
               static_cast<uint32_t>(hi >> 32)};
    uint32_t k0 = key_[0], k1 = key_[1];
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c[0], p1 = uint64_t{0xCD9E8D57u} * c[2];
      c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
           static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return c;
  }

  // Uniform in the open interval (0, 1).
  double Uniform(uint64_t lo, uint64_t hi = 0) const {
    const Block b = (*this)(lo, hi);
    const uint64_t bits = (uint64_t{b[0]} << 32 | b[1]) >> 12;  // 52 bits
    return (static_cast<double>(bits) + 0.5) * 0x1p-52;
  }

  // Standard normal, by Box-Muller.
  double Normal(uint64_t lo, uint64_t hi = 0) const {
    const Block b = (*this)(lo, hi);
    const double u = ((uint64_t{b[0]} << 32 | b[1]) >> 12) * 0x1p-52 + 0x1p-53;
    const double v = ((uint64_t{b[2]} << 32 | b[3]) >> 12) * 0x1p-52;
    return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v);
  }

  // Standard Gumbel, -log(-log u): the argmax of logits + Gumbel noise is a draw from their softmax.
  double Gumbel(uint64_t lo, uint64_t hi = 0) const { return -std::log(-std::log(Uniform(lo, hi))); }

 private:
  std::array<uint32_t, 2> key_;
};

}  // namespace cambium
