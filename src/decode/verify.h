#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "decode/drafter.h"
#include "decode/sampler.h"
#include "tensor/tensor.h"

namespace cambium {

// What the one rule made of a draft.
struct Verdict {
  std::vector<int32_t> path;    // accepted nodes, from the root
  std::vector<int32_t> tokens;  // drawn: one per accepted node, then the one that nobody proposed
};

// Law 7. Row 0 of logits [1 + nodes, vocab] is the root's, row 1 + i is node i's. At each row the target draws its own
// token with the noise of that position; the walk goes on while the token is among the children. `history` is the
// sequence up to and including the root and gets the drawn tokens appended. Stops after `max_tokens` draws, and after a
// token for which is_end says true.
template <class IsEnd>
Verdict Verify(const Draft& draft, Tensor logits, Sampler& sampler, std::vector<int32_t>& history, int64_t max_tokens,
               const IsEnd& is_end) {
  Verdict verdict;
  int32_t node = -1;
  while (true) {
    const std::span<const float> row(logits.row(1 + node), static_cast<size_t>(logits.columns()));
    const int32_t token = sampler.Draw(row, history, static_cast<int64_t>(history.size()));
    history.push_back(token);
    verdict.tokens.push_back(token);
    if (static_cast<int64_t>(verdict.tokens.size()) >= max_tokens || is_end(token)) return verdict;
    node = draft.Child(node, token);
    if (node < 0) return verdict;
    verdict.path.push_back(node);
  }
}

}  // namespace cambium
