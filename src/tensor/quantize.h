#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace cambium {

// The definition of every stored type: decodes `count` values (whole blocks, in ggml's layouts) to f32. Integers are
// converted. src needs no alignment.
void Dequantize(DType dtype, const void* src, float* dst, int64_t count) noexcept;

// The types that Quantize can write: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K.
bool CanQuantize(DType dtype);

// Encodes `count` finite values (whole blocks). 16-bit types round to nearest even; the quantised ones choose scales
// that lessen the squared error of the stored result.
void Quantize(DType dtype, const float* src, void* dst, int64_t count) noexcept;

}  // namespace cambium
