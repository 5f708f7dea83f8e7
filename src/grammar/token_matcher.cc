#include "grammar/token_matcher.h"

#include <algorithm>
#include <functional>

namespace cambium {

TokenMatcher::TokenMatcher(std::shared_ptr<const CompiledGrammar> grammar)
    : grammar_(std::move(grammar)), acceptor_(std::make_unique<Acceptor>(grammar_->program)) {
  sets_.push_back(acceptor_->Begin());
}

bool TokenMatcher::Seek(std::span<const int32_t> answer) {
  if (acceptor_->bytes() > kMostBytes) {
    acceptor_ = std::make_unique<Acceptor>(grammar_->program);
    masks_.clear();
    answer_.clear();
    sets_.assign(1, acceptor_->Begin());
  }
  const auto common =
      std::mismatch(answer.begin(), answer.end(), answer_.begin(), answer_.end()).first - answer.begin();
  answer_.resize(static_cast<size_t>(common));
  sets_.resize(static_cast<size_t>(common) + 1);
  const Vocabulary& vocabulary = grammar_->masks.vocabulary();
  for (const int32_t token : answer.subspan(static_cast<size_t>(common))) {
    if (token < 0 || token >= vocabulary.tokens() || vocabulary.piece(token).empty()) return false;
    const Acceptor::Set next = acceptor_->Run(sets_.back(), vocabulary.piece(token));
    if (next == Acceptor::kDead) return false;
    answer_.push_back(token);
    sets_.push_back(next);
  }
  return true;
}

const TokenSet& TokenMatcher::Mask() {
  const Acceptor::Set set = sets_.back();
  if (const auto found = masks_.find(set); found != masks_.end()) return found->second;
  const Vocabulary& vocabulary = grammar_->masks.vocabulary();
  TokenSet mask(vocabulary.tokens());
  grammar_->masks.Collect(*acceptor_, set, mask);
  if (acceptor_->complete(set)) {
    for (const int32_t end : vocabulary.ends()) mask.Add(end);
  }
  if (masks_.size() >= kMostMasks) masks_.clear();
  return masks_.emplace(set, std::move(mask)).first->second;
}

bool TokenMatcher::Allows(int32_t token) {
  const Vocabulary& vocabulary = grammar_->masks.vocabulary();
  if (std::ranges::find(vocabulary.ends(), token) != vocabulary.ends().end()) return complete();
  if (token < 0 || token >= vocabulary.tokens() || vocabulary.piece(token).empty()) return false;
  return acceptor_->Run(sets_.back(), vocabulary.piece(token)) != Acceptor::kDead;
}

std::vector<int32_t> TokenMatcher::Forced() {
  constexpr size_t kMost = 64;  // tokens to compare
  if (complete()) return {};
  std::vector<int32_t> ids = Mask().First(kMost);
  if (ids.empty() || ids.size() == kMost) return {};
  const Vocabulary& vocabulary = grammar_->masks.vocabulary();
  std::ranges::stable_sort(ids, std::greater(), [&](int32_t id) { return vocabulary.piece(id).size(); });
  const auto begins = [&](int32_t id) { return vocabulary.piece(ids[0]).starts_with(vocabulary.piece(id)); };
  return std::ranges::all_of(ids, begins) ? ids : std::vector<int32_t>();
}

}  // namespace cambium
