#include <cstddef>
#include <cstdint>

#include "cambium/error.h"
#include "io/gguf.h"

// Whatever the bytes, opening and reading everything gives values or an Error.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace cambium;
  try {
    const GgufFile file("fuzz", {data, size});
    for (const auto& [key, value] : file.metadata()) {
      try {
        value.element == GgufType::kString ? (void)file.Strings(key) : (void)file.Floats(key);
        file.Ints(key);
      } catch (const Error&) {
      }
    }
    uint64_t sum = 0;
    for (const NamedTensor& tensor : file.tensors()) {
      if (tensor.bytes > 0) sum += data[tensor.offset] + data[tensor.offset + tensor.bytes - 1];
    }
    static volatile uint64_t sink;
    sink = sum;
  } catch (const Error&) {
  }
  return 0;
}
