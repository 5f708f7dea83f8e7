#pragma once

#include <span>

#include "ops/matmul.h"

namespace cambium {

// MatMul for many rows: weights are decoded tile by tile into cache, each tile serving up to about 500 rows. Under kF32
// (and kInt8, which computes as kF32 here) an output is the fp32 multiply-add chain over k = 0..in-1 from zero, then
// + bias; under kBF16 the chain over bf16 pairs, whatever the number of rows.
void DenseMatMul(ThreadPool& pool, Workspace& workspace, Compute compute, Tensor x, std::span<const Product> products);

}  // namespace cambium
