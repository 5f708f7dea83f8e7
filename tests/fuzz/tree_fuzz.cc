// A file of a tree's paths, for heads that guess four tokens.
#include <cstddef>
#include <cstdint>

#include "cambium/error.h"
#include "drafters/tree_shape.h"
#include "fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace cambium;
  static const FuzzFolder folder;
  constexpr size_t kDepths = 4;
  try {
    const auto nodes = ReadTreeShape(folder.Write("tree", {reinterpret_cast<const char*>(data), size}), kDepths);
    for (const std::vector<int32_t>& node : nodes) {
      if (node.empty() || node.size() > kDepths || node.back() < 0) __builtin_trap();
    }
  } catch (const Error&) {
  }
  return 0;
}
