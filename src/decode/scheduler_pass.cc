// One pass of the scheduler: rows in, tokens out.
#include <algorithm>
#include <chrono>

#include "decode/scheduler_part.h"
#include "decode/top.h"
#include "ops/ops.h"

namespace cambium {
namespace {

constexpr int64_t kColdPasses = 2;      // behind rows of a prompt: slower than the next ones
constexpr int64_t kTimedPrompt = 2;     // rows of a prompt whose time is learned from, at least
constexpr int64_t kTellingPrompt = 16;  // that tell what a row of a verifying pass costs

}  // namespace

void Scheduler::RunPass(std::vector<Part>& parts) {
  Pass pass;
  pass.compute = options_.compute;
  pass.kv = &kv_;
  int64_t decoding_rows = 0, prompt_rows = 0;
  for (Part& part : parts) {
    (part.sequence->decodes() ? decoding_rows : prompt_rows) += part.rows + part.draft.size();
    Lay(part, pass);
  }
  const Clock::time_point start = Clock::now();
  try {
    transformer_.Forward(pass);
  } catch (...) {
    for (const Part& part : parts) Finish(*part.sequence, StopReason::kFailed, std::current_exception());
    return;
  }
  // What one sequence's part throws ends that sequence alone.
  const auto guarded = [&](Part& part, const auto& run) {
    if (part.sequence == nullptr) return;
    try {
      if (run(part)) return;
    } catch (...) {
      Finish(*part.sequence, StopReason::kFailed, std::current_exception());
    }
    part.sequence = nullptr;
  };
  int64_t drawn = 0;
  for (Part& part : parts) {
    guarded(part, [&](Part& p) {
      Settle(p, pass);
      const double ms = Millis(Clock::now() - start);
      DecodeResult& result = p.sequence->result;
      if (p.decoded) {
        drawn += std::ssize(p.verdict.tokens);
        result.counters.verify_ms += ms;
        if (result.pass_ms.size() < DecodeResult::kMostPassTimes) result.pass_ms.push_back(ms);
        p.sequence->Count(p.draft, p.verdict);
      }
      return true;
    });
  }
  const double ms = Millis(Clock::now() - start);
  Learn(decoding_rows, prompt_rows, ms, drawn);
  for (Part& part : parts) {
    guarded(part, [&](Part& p) { return Tell(p, pass); });
  }
  ++stats_.steps;
  stats_.rows += pass.rows();
  stats_.prompt_rows += prompt_rows;
  stats_.last_rows = pass.rows();
  stats_.last_ms = ms;
}

// Puts the part's rows into the pass.
void Scheduler::Lay(Part& part, Pass& pass) {
  Sequence& s = *part.sequence;
  part.begin = pass.rows();
  part.past = s.computed;
  part.draws = part.rows == s.todo() && s.LeftToDraw() > 0;
  part.decoded = s.decodes();
  part.first_shown = std::max<int64_t>(0, s.shown - s.computed);
  part.shows = s.request.shows_rows() && s.shown < s.prompt && part.first_shown < part.rows;
  part.tokens.assign(s.tokens.begin() + s.computed, s.tokens.begin() + s.computed + part.rows);
  if (!part.draft.empty()) {
    part.parents.assign(1, -1);
    for (const Draft::Node& node : part.draft.nodes) {
      part.tokens.push_back(node.token);
      part.parents.push_back(node.parent + 1);
    }
  }
  Append(s, pass, s.kv, s.computed, part.tokens, part.parents);
  const bool shows_logits = part.shows && s.request.on_logits;
  if (part.draws || shows_logits) {
    part.first_logit = std::ssize(pass.logit_rows);
    part.logit_row = shows_logits ? part.first_shown : part.rows - 1;
    for (int64_t row = part.begin + part.logit_row; row < pass.rows(); ++row)
      pass.logit_rows.push_back(static_cast<int32_t>(row));
  }
  if (s.request.drafters != nullptr) {
    const int64_t layer = s.request.drafters->needs().after_layer;
    if (layer >= 0 && std::ranges::find(pass.capture, layer) == pass.capture.end()) pass.capture.push_back(layer);
  }
  if (!s.begun) s.started = Clock::now();
  s.begun = true;
}

// Draws the sequence's tokens, commits the rows that led to them, and shows both to the drafters.
void Scheduler::Settle(Part& part, const Pass& pass) {
  Sequence& s = *part.sequence;
  std::vector<int32_t> path;  // rows of the part that stay; empty: all of them
  Tensor logits;
  if (part.draws) {
    logits = pass.result.logits.Rows(part.first_logit + part.rows - 1 - part.logit_row, 1 + part.draft.size());
    part.verdict = Verify(s.request.verify, part.draft, logits, s.sampler, s.tokens, s.LeftToDraw(),
                          [&](int32_t token) { return s.request.ends(token); });
    if (!part.draft.empty()) path.assign(1, 0);
    for (const int32_t node : part.verdict.path) path.push_back(node + 1);
    if (s.request.top_logprobs >= 0) LogProbs(part, logits);
  }
  const int64_t kept = path.empty() ? part.rows : std::ssize(path);
  if (path.empty()) {
    kv_.Commit(s.kv, kept);
  } else {
    kv_.Commit(s.kv, path);
  }
  s.computed += kept;
  if (s.request.drafters != nullptr && s.computed < std::ssize(s.tokens)) {
    const Drafter::Needs needs = s.request.drafters->needs();
    const auto rows = [&](Tensor all) {
      const Tensor own = all.Rows(part.begin, std::ssize(part.tokens));
      if (path.empty()) return own;
      Tensor gathered = transformer_.workspace().New({kept, own.columns()});
      for (int64_t i = 0; i < kept; ++i) {
        std::copy_n(own.row(path[static_cast<size_t>(i)]), own.columns(), gathered.row(i));
      }
      return gathered;
    };
    const std::span<const int32_t> committed =
        std::span(s.tokens).subspan(static_cast<size_t>(part.past), static_cast<size_t>(kept));
    Observation observation{
        part.past, committed, {}, {}, s.tokens[static_cast<size_t>(s.computed)], part.decoded ? &part.draft : nullptr,
        logits};
    if (needs.hidden) observation.hidden = rows(pass.result.hidden);
    if (needs.after_layer >= 0) {
      const auto layer = std::ranges::find(pass.capture, needs.after_layer) - pass.capture.begin();
      observation.after_layer = rows(pass.result.captured[static_cast<size_t>(layer)]);
    }
    s.request.drafters->Observe(s.drafting, observation);
  }
  Publish(s, std::min(s.computed, s.drafting.kept()), false);
}

// Of each drawn token, and of the likeliest at its place.
void Scheduler::LogProbs(Part& part, Tensor logits) {
  const size_t most = static_cast<size_t>(part.sequence->request.top_logprobs);
  for (size_t i = 0; i < part.verdict.tokens.size(); ++i) {
    const Tensor row = logits.Rows(i == 0 ? 0 : part.verdict.path[i - 1] + 1, 1);
    RowLogprobs of = LogprobsOf(transformer_.pool(), row, part.verdict.tokens[i], most);
    part.logprobs.push_back(of.of.logprob);
    part.top.push_back(std::move(of.top));
  }
}

// Learns what passes cost.
void Scheduler::Learn(int64_t decoding_rows, int64_t prompt_rows, double ms, int64_t drawn) {
  if (prompt_rows == 0) {
    planner_.Measure(decoding_rows, ms, drawn, ++warm_passes_ > kColdPasses);
    return;
  }
  warm_passes_ = 0;
  if (decoding_rows > 0) planner_.Measure(decoding_rows, ms, drawn, false);
  if (prompt_rows < kTimedPrompt) return;
  const double spent = ms - (decoding_rows > 0 ? planner_.curve().Ms(decoding_rows) : 0);
  const double row = std::max(spent, 0.1 * ms) / static_cast<double>(prompt_rows);
  if (decoding_rows == 0 && prompt_rows >= kTellingPrompt) planner_.MeasureRow(row * head_share_);
  prefill_ms_per_row_ = prefill_ms_per_row_ > 0 ? 0.75 * prefill_ms_per_row_ + 0.25 * row : row;
}

void Scheduler::Show(const Part& part, const Pass& pass) {
  Sequence& s = *part.sequence;
  const auto values = [](Tensor rows, int64_t row) {
    return std::span<const float>(rows.row(row), static_cast<size_t>(rows.columns()));
  };
  for (int64_t i = part.first_shown; i < std::min(part.rows, s.prompt - part.past); ++i) {
    const int64_t row = s.shown++;
    if (s.request.on_logits)
      s.request.on_logits(row, values(pass.result.logits, part.first_logit + i - part.logit_row));
    if (s.request.on_hidden) s.request.on_hidden(row, values(pass.result.hidden, part.begin + i));
  }
}

// Calls the request back; false when the sequence has ended.
bool Scheduler::Tell(Part& part, const Pass& pass) {
  Sequence& s = *part.sequence;
  if (part.shows) Show(part, pass);
  if (s.request.on_prompt && s.emitted == 0 && part.past < s.prompt) {
    s.request.on_prompt(std::min(s.computed, s.prompt), s.result.cached_tokens, Millis(Clock::now() - s.started));
  }
  if (!part.draws) {
    if (s.todo() > 0) return true;
    Finish(s, StopReason::kLength);
    return false;
  }
  if (s.emitted == 0) s.first = Clock::now();
  const Verdict& verdict = part.verdict;
  if (s.request.on_verified && !part.draft.empty()) s.request.on_verified(part.tokens[0], part.draft, verdict);
  for (size_t i = 0; i < verdict.tokens.size(); ++i) {
    Emitted emitted{verdict.tokens[i]};
    if (i < verdict.path.size()) {
      emitted.drafter = part.draft.nodes[static_cast<size_t>(verdict.path[i])].drafter;
    } else {
      const int32_t parent = verdict.path.empty() ? -1 : verdict.path.back();
      emitted.corrected =
          std::ranges::any_of(part.draft.nodes, [&](const Draft::Node& n) { return n.parent == parent; });
    }
    if (!part.logprobs.empty()) {
      emitted.has_logprob = true;
      emitted.logprob = part.logprobs[i];
      emitted.top = part.top[i];
    }
    if (!s.Emit(emitted)) {
      Finish(s, s.result.reason);
      return false;
    }
  }
  if (s.LeftToDraw() > 0) return true;
  Finish(s, StopReason::kLength);
  return false;
}

}  // namespace cambium
