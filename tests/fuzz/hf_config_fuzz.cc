// A config.json of a model directory.
#include <cstddef>
#include <cstdint>
#include <string>

#include "cambium/error.h"
#include "families/hf_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    cambium::ParseHfConfig(std::string(reinterpret_cast<const char*>(data), size), "config.json");
  } catch (const cambium::Error&) {
  }
  return 0;
}
