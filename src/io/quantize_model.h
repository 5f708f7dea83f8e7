#pragma once

#include <functional>
#include <string>

#include "base/parallel.h"
#include "tensor/tensor.h"

namespace cambium {

struct QuantizeReport {
  int64_t converted = 0;  // tensors written in the asked type
  int64_t fallback = 0;   // matrices whose width is no multiple of its block, written as Q4_1, Q8_0 or F16
  uint64_t bytes_in = 0, bytes_out = 0;  // of tensors
};

// Writes the GGUF file `in` again with its matrices in `type` (F32, F16, BF16, Q8_0, Q4_0, Q4_1 or Q4_K). Vectors
// become F32; with a 4-bit type the output head (and the embedding, if it is the head) takes Q8_0. A source that is
// quantised already is refused unless `requantize`. kData names the tensor that cannot be encoded.
QuantizeReport QuantizeModel(ThreadPool& pool, const std::string& in, const std::string& out, DType type,
                             bool requantize, const std::function<void(uint64_t done, uint64_t total)>& progress = {});

// "q4_0" and the like, of the types above; kUsage listing them otherwise.
DType ParseQuantizeType(const std::string& name);

}  // namespace cambium
