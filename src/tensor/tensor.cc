#include "tensor/tensor.h"

namespace cambium {

const DTypeInfo& Info(DType dtype) {
  static constexpr DTypeInfo kInfo[] = {
      {"F32", 1, 4},    {"F16", 1, 2},    {"BF16", 1, 2},   {"I32", 1, 4},      {"I64", 1, 8},
      {"Q8_0", 32, 34}, {"Q4_0", 32, 18}, {"Q4_1", 32, 20}, {"Q5_0", 32, 22},   {"Q5_1", 32, 24},
      {"Q4_K", 256, 144}, {"Q5_K", 256, 176}, {"Q6_K", 256, 210},
  };
  return kInfo[static_cast<int>(dtype)];
}

Tensor::Tensor(void* data, DType dtype, std::initializer_list<int64_t> shape) : data(data), dtype(dtype) {
  Check(shape.size() >= 1 && shape.size() <= kMaxRank, "tensor rank is 1 to 4");
  for (int64_t extent : shape) this->shape[rank++] = extent;
}

int64_t Tensor::rows() const {
  int64_t product = rank == 0 ? 0 : 1;
  for (int i = 0; i + 1 < rank; ++i) product *= shape[static_cast<size_t>(i)];
  return product;
}

int64_t Tensor::row_bytes() const { return columns() / Info(dtype).block * Info(dtype).bytes; }

Tensor Tensor::Rows(int64_t begin, int64_t count) const {
  return Tensor(static_cast<char*>(data) + begin * row_bytes(), dtype, {count, columns()});
}

}  // namespace cambium
