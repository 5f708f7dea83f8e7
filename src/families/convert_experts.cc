#include "families/convert_experts.h"

#include <cstring>

#include "cambium/error.h"

namespace cambium {

void ExpertStacks::Add(const std::string& name, int64_t expert, const NamedTensor& tensor, const Tensor& view,
                       const HfConfig& config) {
  std::vector<Tensor>& stack = stacks_[name];
  stack.resize(static_cast<size_t>(config.experts.count));
  if (expert >= config.experts.count) {
    Fail(ErrorCode::kData, config.path, ": tensor ", tensor.name, " is of expert ", expert, " of ",
         config.experts.count);
  }
  for (const Tensor& other : stack) {
    if (other.data == nullptr) continue;
    if (other.dtype == view.dtype && other.rows() == view.rows() && other.columns() == view.columns()) break;
    Fail(ErrorCode::kData, config.path, ": tensor ", tensor.name, " is [", view.rows(), ", ", view.columns(), "] ",
         Info(view.dtype).name, ", others of the layer's experts are not, and GGUF stacks them");
  }
  if (stack[static_cast<size_t>(expert)].data != nullptr) {
    Fail(ErrorCode::kData, config.path, ": tensor ", tensor.name, " is there twice");
  }
  stack[static_cast<size_t>(expert)] = view;
}

void ExpertStacks::Write(GgufWriter& writer, const ShardedSafetensors& source, const HfConfig& config) const {
  for (const auto& entry : stacks_) {
    const std::vector<Tensor>& stack = entry.second;
    for (size_t expert = 0; expert < stack.size(); ++expert) {
      if (stack[expert].data != nullptr) continue;
      Fail(ErrorCode::kData, config.path, ": no tensor for expert ", expert, " of ", entry.first);
    }
    const int64_t out = stack[0].rows(), in = stack[0].columns();
    writer.AddTensor(entry.first, stack[0].dtype, {config.experts.count, out, in},
                     [&stack, &source, out](int64_t row, int64_t rows, uint8_t* dst) {
                       for (int64_t r = row; r < row + rows; ++r) {
                         const Tensor& matrix = stack[static_cast<size_t>(r / out)];
                         const int64_t bytes = matrix.row_bytes();
                         std::memcpy(dst + (r - row) * bytes, matrix.as<uint8_t>() + r % out * bytes,
                                     static_cast<size_t>(bytes));
                         if (r % out == out - 1) source.Evict(matrix);
                       }
                     });
  }
}

std::vector<ExpertMatrix> SplitExperts(const std::string& name, const Tensor& stacked) {
  const size_t at = name.find("{}");
  const int64_t experts = stacked.shape[0], out = stacked.rows() / experts;
  std::vector<ExpertMatrix> matrices;
  for (int64_t expert = 0; expert < experts; ++expert) {
    std::string own = name;
    matrices.push_back({own.replace(at, 2, std::to_string(expert)), stacked.Rows(expert * out, out)});
  }
  return matrices;
}

}  // namespace cambium
