#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace cambium::server {

uint64_t RandomBits();  // of the system's randomness
std::string RandomHex(size_t digits);
std::string NewUuid();  // RFC 9562, version 4

}  // namespace cambium::server
