#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "decode/drafter.h"
#include "decode/sampler.h"
#include "tensor/tensor.h"

namespace cambium {

// What the rule made of a draft.
struct Verdict {
  std::vector<int32_t> path;    // accepted nodes, from the root
  std::vector<int32_t> tokens;  // drawn: one per accepted node, then the one that nobody proposed
};

// How a draft is judged. kMatch is law 7; the others are for comparison, by name only.
struct VerifyRule {
  enum Kind {
    kMatch,      // the target draws its own token with the position's noise: the tokens of plain decoding
    kRejection,  // Leviathan et al. 2023, Chen et al. 2023: the target's distribution, not plain decoding's tokens
    kTypical,    // Cai et al. 2024 (Medusa): lossy
  };
  Kind kind = kMatch;
  // kTypical takes a token of probability above min(epsilon, delta exp(-entropy)).
  double epsilon = 0.09, delta = 0.3;
};
// "match", "rejection", "typical" or "typical:epsilon=E,delta=D"; kUsage naming what is wrong.
VerifyRule ParseVerifyRule(const std::string& text);

// Judges one row: the token there, and the child that carries it (-1: none, the walk ends).
class Judge {
 public:
  struct Choice {
    int32_t token, child;
  };
  // Row 0 of logits [1 + nodes, vocab] is the root's, row 1 + i is node i's.
  Judge(const VerifyRule& rule, const Draft& draft, Tensor logits, Sampler& sampler)
      : rule_(rule), draft_(draft), logits_(logits), sampler_(sampler) {}
  // `history` is the sequence up to and including node's token.
  Choice At(int32_t node, std::vector<int32_t>& history);

 private:
  std::span<const float> Row(int32_t node) const {
    return {logits_.row(1 + node), static_cast<size_t>(logits_.columns())};
  }
  Choice Match(int32_t node, std::span<const int32_t> history);
  Choice Reject(int32_t node, std::span<const int32_t> history);
  struct Path {
    std::vector<int32_t> nodes;
    double log_probability = 0;
  };
  Path LongestTypical(int32_t node, std::vector<int32_t>& history);

  const VerifyRule& rule_;
  const Draft& draft_;
  Tensor logits_;
  Sampler& sampler_;
  std::optional<Path> typical_;
  size_t typical_taken_ = 0;
};

// Walks the tree from the root while the token at a row is among its children. `history` is the sequence up to and
// including the root and gets the tokens appended. Stops after `max_tokens` of them, and after one for which is_end
// says true.
template <class IsEnd>
Verdict Verify(const VerifyRule& rule, const Draft& draft, Tensor logits, Sampler& sampler,
               std::vector<int32_t>& history, int64_t max_tokens, const IsEnd& is_end) {
  Verdict verdict;
  Judge judge(rule, draft, logits, sampler);
  int32_t node = -1;
  while (true) {
    const Judge::Choice choice = judge.At(node, history);
    history.push_back(choice.token);
    verdict.tokens.push_back(choice.token);
    if (static_cast<int64_t>(verdict.tokens.size()) >= max_tokens || is_end(choice.token)) return verdict;
    if (choice.child < 0) return verdict;
    node = choice.child;
    verdict.path.push_back(node);
  }
}

}  // namespace cambium
