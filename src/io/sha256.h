#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

namespace cambium {

// SHA-256 (FIPS 180-4), in pieces.
class Sha256 {
 public:
  void Update(std::span<const uint8_t> bytes);
  std::string HexDigest();  // 64 lower-case digits; ends the message

 private:
  void Block(const uint8_t* block);
  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> pending_{};
  uint64_t length_ = 0;  // bytes so far
};

// Of a whole file; kData if it cannot be read.
std::string FileSha256(const std::string& path);

}  // namespace cambium
