#include "decode/generate.h"

#include <algorithm>
#include <chrono>

namespace cambium {
namespace {

using Clock = std::chrono::steady_clock;

double MillisSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

class Loop {
 public:
  Loop(Transformer& transformer, KvCache& kv, DecodeState& state, Sampler& sampler, Drafter* drafter,
       const DecodeRequest& request)
      : transformer_(transformer), kv_(kv), state_(state), sampler_(sampler), drafter_(drafter), request_(request) {}

  DecodeResult Run() {
    Clock::time_point start = Clock::now();
    if (drafter_ != nullptr) {
      drafter_->Sampling(sampler_.options(), request_.verify.kind == VerifyRule::kRejection);
      drafter_->Begin(request_.prompt);
    }
    history_ = request_.prompt;
    bool going = request_.max_tokens > 0 || request_.max_tokens < 0;
    int32_t next = Prefill();
    result_.prompt_ms = MillisSince(start);
    start = Clock::now();
    going = going && Emit({next});
    while (going) going = Step();
    result_.decode_ms = MillisSince(start);
    result_.decode_tokens = std::max<int64_t>(0, drawn_ - 1);
    return std::move(result_);
  }

 private:
  // Computes the part of the prompt that the cache lacks, all but always its last token, and draws the first token.
  int32_t Prefill() {
    const std::vector<int32_t>& prompt = request_.prompt;
    size_t kept = 0;
    while (kept + 1 < prompt.size() && kept < state_.committed.size() && state_.committed[kept] == prompt[kept]) ++kept;
    if (drafter_ != nullptr && (drafter_->needs().hidden || drafter_->needs().after_layer >= 0)) kept = 0;
    kv_.Truncate(state_.sequence, state_.prefix + static_cast<int64_t>(kept));
    state_.committed.resize(kept);
    result_.prompt_tokens = static_cast<int64_t>(prompt.size() - kept);
    int32_t next = 0;
    while (kept < prompt.size()) {
      const size_t count = std::min(prompt.size() - kept, static_cast<size_t>(request_.prefill_chunk));
      const std::span<const int32_t> chunk = std::span(prompt).subspan(kept, count);
      const bool last = kept + count == prompt.size();
      Pass pass = NewPass(chunk, {});
      if (last) pass.logit_rows = {static_cast<int32_t>(count) - 1};
      transformer_.Forward(pass);
      if (last) {
        next = sampler_.Draw({pass.logits.row(0), static_cast<size_t>(pass.logits.columns())}, history_,
                             static_cast<int64_t>(history_.size()));
      }
      Commit(pass, chunk, {}, last ? next : prompt[kept + count], nullptr);
      kept += count;
    }
    history_.push_back(next);
    return next;
  }

  bool Step() {
    const int64_t left = LeftToDraw();
    Draft draft;
    Clock::time_point start = Clock::now();
    // Row 0 is the root; a path of d nodes draws d + 1 tokens, of which the last needs no row.
    const int64_t depth = std::min(left - 1, request_.context - state_.prefix - static_cast<int64_t>(history_.size()));
    if (drafter_ != nullptr && depth > 0) drafter_->Propose(request_.max_rows - 1, depth, draft);
    result_.counters.draft_ms += MillisSince(start);

    start = Clock::now();
    rows_.assign(1, history_.back());
    parents_.assign(1, -1);
    for (const Draft::Node& node : draft.nodes) {
      rows_.push_back(node.token);
      parents_.push_back(node.parent + 1);
    }
    Pass pass = NewPass(rows_, draft.empty() ? std::span<const int32_t>() : parents_);
    for (size_t i = 0; i < rows_.size(); ++i) pass.logit_rows.push_back(static_cast<int32_t>(i));
    transformer_.Forward(pass);
    const Verdict verdict = Verify(request_.verify, draft, pass.logits, sampler_, history_, left,
                                   [&](int32_t token) { return request_.is_end && request_.is_end(token); });
    path_.assign(1, 0);
    for (int32_t node : verdict.path) path_.push_back(node + 1);
    committed_.assign(1, rows_[0]);
    for (int32_t node : verdict.path) committed_.push_back(draft.nodes[static_cast<size_t>(node)].token);
    Commit(pass, committed_, path_, verdict.tokens.back(), &draft);
    const double pass_ms = MillisSince(start);
    result_.counters.verify_ms += pass_ms;
    result_.pass_ms.push_back(pass_ms);
    if (drafter_ != nullptr) drafter_->Measure(static_cast<int64_t>(rows_.size()), pass_ms);
    Count(draft, verdict);
    if (request_.on_verified && !draft.empty()) request_.on_verified(rows_[0], draft, verdict);

    for (size_t i = 0; i < verdict.tokens.size(); ++i) {
      Emitted emitted{verdict.tokens[i]};
      if (i < verdict.path.size()) {
        emitted.drafter = draft.nodes[static_cast<size_t>(verdict.path[i])].drafter;
      } else {
        const int32_t parent = verdict.path.empty() ? -1 : verdict.path.back();
        emitted.corrected = std::any_of(draft.nodes.begin(), draft.nodes.end(),
                                        [&](const Draft::Node& node) { return node.parent == parent; });
      }
      if (!Emit(emitted)) return false;
    }
    return true;
  }

  void Count(const Draft& draft, const Verdict& verdict) {
    DraftCounters& counters = result_.counters;
    ++counters.passes;
    if (draft.empty()) return;
    ++counters.num_drafts;
    counters.num_draft_tokens += static_cast<int64_t>(draft.nodes.size());
    counters.num_accepted_tokens += static_cast<int64_t>(verdict.path.size());
    if (counters.num_accepted_tokens_per_pos.size() < verdict.path.size()) {
      counters.num_accepted_tokens_per_pos.resize(verdict.path.size());
    }
    for (size_t i = 0; i < verdict.path.size(); ++i) ++counters.num_accepted_tokens_per_pos[i];
  }

  // Counts a drawn token; false when it was the last.
  bool Emit(const Emitted& emitted) {
    ++drawn_;
    if (request_.is_end && request_.is_end(emitted.token)) {
      result_.reason = StopReason::kEnd;
      return false;
    }
    result_.tokens.push_back(emitted.token);
    if (request_.on_token && !request_.on_token(emitted)) {
      result_.reason = StopReason::kCancelled;
      return false;
    }
    return LeftToDraw() > 0;
  }

  int64_t LeftToDraw() const {
    const int64_t room = request_.context - state_.prefix - static_cast<int64_t>(request_.prompt.size()) - drawn_;
    return request_.max_tokens < 0 ? room : std::min(room, request_.max_tokens - drawn_);
  }

  Pass NewPass(std::span<const int32_t> tokens, std::span<const int32_t> parents) {
    Pass pass;
    pass.compute = request_.compute;
    pass.kv = &kv_;
    pass.Append(state_.sequence, kv_.length(state_.sequence), tokens, parents).grafts = state_.grafts;
    if (drafter_ != nullptr && drafter_->needs().after_layer >= 0) pass.capture = {drafter_->needs().after_layer};
    return pass;
  }

  // Keeps rows `path` of the pass (empty: all of them) and shows them to the drafter.
  void Commit(const Pass& pass, std::span<const int32_t> tokens, const std::vector<int32_t>& path, int32_t next,
              const Draft* draft) {
    if (path.empty()) {
      kv_.sequence(state_.sequence).length += static_cast<int64_t>(tokens.size());
    } else {
      kv_.Commit(state_.sequence, path);
    }
    const int64_t position = static_cast<int64_t>(state_.committed.size());
    state_.committed.insert(state_.committed.end(), tokens.begin(), tokens.end());
    if (drafter_ == nullptr) return;
    const Drafter::Needs needs = drafter_->needs();
    Observation observation{position, tokens, {}, {}, next, draft, pass.logits};
    if (needs.hidden) observation.hidden = Gather(pass.hidden, path);
    if (needs.after_layer >= 0) observation.after_layer = Gather(pass.captured[0], path);
    drafter_->Observe(observation);
  }

  Tensor Gather(Tensor rows, const std::vector<int32_t>& path) {
    if (path.empty()) return rows;
    Tensor gathered = transformer_.workspace().New({static_cast<int64_t>(path.size()), rows.columns()});
    for (size_t i = 0; i < path.size(); ++i) {
      std::copy_n(rows.row(path[i]), rows.columns(), gathered.row(static_cast<int64_t>(i)));
    }
    return gathered;
  }

  Transformer& transformer_;
  KvCache& kv_;
  DecodeState& state_;
  Sampler& sampler_;
  Drafter* drafter_;
  const DecodeRequest& request_;
  DecodeResult result_;
  std::vector<int32_t> history_;  // prompt and everything drawn; the last token is not committed yet
  std::vector<int32_t> rows_, parents_, path_, committed_;
  int64_t drawn_ = 0;
};

}  // namespace

void DecodeState::Restart(Transformer& transformer, KvCache& kv, std::vector<Graft*> new_grafts) {
  // Nothing is claimed before it is there: a call after a failure begins anew.
  committed.clear();
  grafts.clear();
  prefix = 0;
  prefix = transformer.BeginSequence(kv, sequence, new_grafts);
  grafts = std::move(new_grafts);
}

DecodeResult Generate(Transformer& transformer, KvCache& kv, DecodeState& state, Sampler& sampler, Drafter* drafter,
                      const DecodeRequest& request) {
  Check(!request.prompt.empty(), "a prompt has tokens");
  return Loop(transformer, kv, state, sampler, drafter, request).Run();
}

}  // namespace cambium
