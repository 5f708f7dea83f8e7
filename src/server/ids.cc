#include "server/ids.h"

#include <random>

namespace cambium::server {

uint64_t RandomBits() {
  thread_local std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

std::string RandomHex(size_t digits) {
  std::string text;
  while (text.size() < digits) {
    uint64_t bits = RandomBits();
    for (int i = 0; i < 16 && text.size() < digits; ++i, bits >>= 4) text += "0123456789abcdef"[bits & 15];
  }
  return text;
}

std::string NewUuid() {
  std::string hex = RandomHex(32);
  hex[12] = '4';
  hex[16] = "89ab"[RandomBits() & 3];
  for (const size_t at : {20, 16, 12, 8}) hex.insert(at, "-");
  return hex;
}

}  // namespace cambium::server
