#include "decode/sequence.h"

#include <algorithm>

namespace cambium {

int64_t GraftSet::slots_before() const {
  int64_t slots = 0;
  for (const Graft* graft : grafts) slots += graft->slots_before();
  return slots;
}

Sequence::Sequence(int64_t id, DecodeRequest asked)
    : id(id),
      request(std::move(asked)),
      sampler(request.sampling, request.vocabulary, request.filter.get()),
      tokens(request.prompt),
      prompt(std::ssize(tokens)),
      slots_before(request.grafts != nullptr ? request.grafts->slots_before() : 0) {}

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
  if (request.is_end && request.is_end(token.token)) {
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
}

}  // namespace cambium
