#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/graft.h"
#include "model/transformer.h"

namespace cambium {

using MergeProgress = std::function<void(uint64_t done, uint64_t total)>;

// Writes the base `model` (loaded from `base`, a GGUF file or Hugging Face directory) with the grafts added into its
// matrices: a GGUF file where `out` ends with .gguf, else a Hugging Face directory. Matrices that a graft touches are
// decoded, added to in fp32 and encoded again: in `type` with all the others, or, without one, in what they were (Q8_0
// for types that we do not write; F32 in a directory of a quantised base), and the others stay as they are, bit for bit.
// kUsage for a graft that is more than a change of matrices. `out` must not be there yet.
void WriteMerged(const BaseModel& model, std::span<Graft* const> grafts, const std::string& base, const std::string& out,
                 std::optional<DType> type, const MergeProgress& progress = {});

// Logits [ids, vocab] in fp32.
OwnedTensor ExactLogits(Transformer& model, std::span<Graft* const> grafts, std::span<const int32_t> ids);

struct LogitDifference {
  double largest = 0, rms = 0;
};
LogitDifference Compare(Tensor a, Tensor b);

}  // namespace cambium
