#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "grammar/acceptor.h"
#include "grammar/token_set.h"
#include "grammar/vocabulary.h"

namespace cambium {

// Which tokens may follow, for one program and one vocabulary. What a token may do inside the rule that is under way
// does not depend on the stack: it is computed once for each state and kept, also for other requests. Tokens that leave
// the rule are then followed where the stack leads. Thread-safe.
class TokenMasks {
 public:
  TokenMasks(std::shared_ptr<const Vocabulary> vocabulary, const Program& program)
      : vocabulary_(std::move(vocabulary)), program_(program) {}

  const Vocabulary& vocabulary() const { return *vocabulary_; }
  const Program& program() const { return program_; }
  // Adds the tokens that may follow at `set` of `run`, ends not counted.
  void Collect(Acceptor& run, Acceptor::Set set, TokenSet& mask);
  // The same by a walk over the whole tree: the plain definition, for tests.
  void CollectPlainly(Acceptor& run, Acceptor::Set set, TokenSet& mask) const;

 private:
  static constexpr size_t kMostBytes = size_t{8} << 20;  // of what is kept
  // What may be done from a state before its rule is complete.
  struct Inner {
    std::vector<int32_t> few;  // tokens that stay inside, where they are few
    std::unique_ptr<TokenSet> many;
    std::vector<int32_t> exits;  // nodes of the tree at which the rule is complete
    size_t bytes() const;
  };
  // A state and the counted loops above the next call, with counts as far as a token can tell them apart.
  using Key = std::vector<int64_t>;

  std::shared_ptr<const Inner> InnerOf(const Acceptor& run, Acceptor::Configuration at, int32_t& below);
  Inner Explore(int32_t state, const std::vector<Acceptor::Frame>& frames);  // under the lock
  int64_t PlainBytes(Acceptor::Set set);
  int64_t Canonical(int64_t count, const Program::Loop& loop) const;

  std::shared_ptr<const Vocabulary> vocabulary_;
  const Program& program_;
  std::mutex mutex_;
  std::map<Key, std::shared_ptr<const Inner>> inner_;
  std::unique_ptr<Acceptor> explorer_;  // what it has computed serves the next state, too
  size_t kept_bytes_ = 0;
};

}  // namespace cambium
