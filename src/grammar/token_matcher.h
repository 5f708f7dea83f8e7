#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "grammar/token_mask.h"

namespace cambium {

// A grammar for one vocabulary. Shared by the requests that keep it.
struct CompiledGrammar {
  CompiledGrammar(std::shared_ptr<const Vocabulary> vocabulary, Rules& rules, Rules::Rule root)
      : program(rules, root), masks(std::move(vocabulary), program) {}
  const Program program;
  mutable TokenMasks masks;
};

// Where one answer stands in a grammar. Not thread-safe.
class TokenMatcher {
 public:
  explicit TokenMatcher(std::shared_ptr<const CompiledGrammar> grammar);

  // Goes to the place behind `answer`; what it shares with the last one is not read again. False where the grammar has
  // no such text.
  bool Seek(std::span<const int32_t> answer);
  bool complete() const { return acceptor_->complete(sets_.back()); }  // the answer may end here
  // The tokens that may follow here, end tokens where it may end. Valid until the next call of any member.
  const TokenSet& Mask();
  bool Allows(int32_t token);  // without making the mask
  // The tokens that may follow, the longest first, where all are beginnings of it; empty where they are not.
  std::vector<int32_t> Forced();

 private:
  static constexpr size_t kMostBytes = size_t{8} << 20;  // of sets and stacks, before they are made anew
  static constexpr size_t kMostMasks = 32;

  std::shared_ptr<const CompiledGrammar> grammar_;
  std::unique_ptr<Acceptor> acceptor_;
  std::vector<int32_t> answer_;
  std::vector<Acceptor::Set> sets_;          // before each token of the answer, and behind the last
  std::map<Acceptor::Set, TokenSet> masks_;  // of the last places
};

}  // namespace cambium
