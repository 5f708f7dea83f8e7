#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace cambium {

// A tensor as a model file lists it.
struct NamedTensor {
  std::string name;
  std::string_view type;       // the file format's own name of the element type
  std::vector<int64_t> shape;  // innermost axis last
  uint64_t offset = 0;         // from the start of the file
  uint64_t bytes = 0;
  Tensor view;  // into the mapped file; empty where the engine has no such type or rank
};

}  // namespace cambium
