#include "decode/sequence.h"

#include <algorithm>

namespace cambium {

namespace {

// What keys and values depend on besides the tokens.
uint64_t KeyOf(const DecodeRequest& request) {
  const bool keeps = request.drafters != nullptr && request.drafters->keeps_kv();
  const uint64_t grafts = request.grafts != nullptr ? request.grafts->key : 0;
  uint64_t key = MixKey(MixKey(MixKey(0, grafts), keeps ? request.drafters->key() : 0), request.salt);
  if (!request.source.empty()) key = MixKey(key, SourceKey(request));
  return key;
}

}  // namespace

// SplitMix64's finaliser (Steele et al. 2014), as far as it goes here.
uint64_t MixKey(uint64_t key, uint64_t part) {
  key = (key ^ part) * 0x9E3779B97F4A7C15u;
  key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9u;
  return key ^ (key >> 27);
}

uint64_t SourceKey(const DecodeRequest& request) {
  uint64_t key = MixKey(request.salt, request.grafts != nullptr ? request.grafts->key : 0);
  for (const int32_t token : request.source) key = MixKey(key, static_cast<uint64_t>(token) + 1);
  return key;
}

int64_t GraftSet::slots_before() const {
  int64_t slots = 0;
  for (const Graft* graft : grafts) slots += graft->slots_before();
  return slots;
}

int64_t GraftSet::slots_unshifted() const {
  int64_t slots = 0;
  for (const Graft* graft : grafts) {
    if (!graft->prefix_shifts_positions()) slots += graft->prefix_length();
  }
  return slots;
}

std::shared_ptr<const GraftSet> GraftsOf(std::vector<Graft*> grafts, uint64_t key) {
  auto set = std::make_shared<GraftSet>();
  set->grafts = std::move(grafts);
  set->key = set->grafts.empty() ? 0 : key;
  return set;
}

Sequence::Sequence(int64_t id, DecodeRequest asked)
    : id(id),
      request(std::move(asked)),
      sampler(request.sampling, {request.vocabulary, request.filter.get(), std::ssize(request.prompt),
                                 request.min_tokens, request.end_tokens, request.constraint.get(), request.forced_first,
                                 request.forced_last, request.max_tokens}),
      tokens(request.prompt),
      prompt(std::ssize(tokens)),
      slots_before(request.grafts != nullptr ? request.grafts->slots_before() : 0),
      unshifted(request.grafts != nullptr ? request.grafts->slots_unshifted() : 0),
      key(KeyOf(request)) {}

int64_t Sequence::LeftToDraw() const {
  const int64_t room = request.context - std::ssize(tokens);
  return request.max_tokens < 0 ? room : std::min(room, request.max_tokens - drawn());
}

std::span<Graft* const> Sequence::grafts() const {
  if (request.grafts == nullptr) return {};
  return request.grafts->grafts;
}

bool Sequence::Emit(const Emitted& token) {
  ++emitted;
  if (request.ends(token.token)) {
    result.reason = StopReason::kEnd;
    result.end_token = token.token;
    return false;
  }
  result.tokens.push_back(token.token);
  if (request.on_token && !request.on_token(token)) {
    result.reason = StopReason::kStopped;
    return false;
  }
  result.reason = StopReason::kLength;
  return true;
}

void Sequence::Count(const Draft& draft, const Verdict& verdict) {
  DraftCounters& counters = result.counters;
  ++counters.passes;
  if (draft.empty()) return;
  ++counters.num_drafts;
  counters.num_draft_tokens += draft.size();
  counters.num_accepted_tokens += std::ssize(verdict.path);
  if (counters.num_accepted_tokens_per_pos.size() < verdict.path.size()) {
    counters.num_accepted_tokens_per_pos.resize(verdict.path.size());
  }
  for (size_t i = 0; i < verdict.path.size(); ++i) ++counters.num_accepted_tokens_per_pos[i];
  const auto by = [&](const Draft::Node& node) -> DraftedBy& {
    const size_t drafter = static_cast<size_t>(node.drafter);
    if (counters.by_drafter.size() <= drafter) counters.by_drafter.resize(drafter + 1);
    return counters.by_drafter[drafter];
  };
  for (const Draft::Node& node : draft.nodes) ++by(node).drafted;
  for (const int32_t node : verdict.path) ++by(draft.nodes[static_cast<size_t>(node)]).accepted;
}

}  // namespace cambium
