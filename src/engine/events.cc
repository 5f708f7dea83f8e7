// From what the scheduler draws to what callers hear.
#include <cmath>
#include <utility>

#include "decode/top.h"
#include "engine/impl.h"

namespace cambium {
namespace {

FinishReason ReasonOf(const DecodeResult& result, bool stopped, bool looped) {
  switch (result.reason) {
    case StopReason::kEnd:
      return FinishReason::kStop;
    case StopReason::kLength:
      return FinishReason::kLength;
    case StopReason::kStopped:
      if (stopped) return FinishReason::kStop;
      return looped ? FinishReason::kRepetition : FinishReason::kCancelled;
    case StopReason::kCancelled:
      return FinishReason::kCancelled;
    case StopReason::kFailed:
      return FinishReason::kFailed;
  }
  return FinishReason::kFailed;
}

// The sum's direction, which is the mean's.
std::vector<float> UnitVector(const std::vector<double>& sum) {
  double squares = 0;
  for (const double value : sum) squares += value * value;
  std::vector<float> unit;
  for (const double value : sum) unit.push_back(static_cast<float>(squares > 0 ? value / std::sqrt(squares) : 0));
  return unit;
}

}  // namespace

std::string_view Name(FinishReason reason) {
  static constexpr std::string_view kNames[] = {"stop", "length", "cancelled", "failed", "repetition"};
  return kNames[static_cast<size_t>(reason)];
}

void Engine::Impl::Tell(const Event& event) {
  if (sink == nullptr || !*sink) return;
  if (only == 0 || event.request == only) {
    (*sink)(event);
    return;
  }
  // Another's: kept whole until the next Step.
  struct Kept {
    Event event;
    std::string text;
    TokenLogprob logprob;
    std::vector<TokenLogprob> top;
    DraftTrace pass;
    Generation generation;
    PromptProgress prompt;
    std::vector<TokenLogprob> prompt_logprobs;
    std::vector<std::vector<TokenLogprob>> prompt_top;
  };
  const auto kept = std::make_shared<Kept>();
  kept->event = event;
  kept->text = event.text;
  kept->top.assign(event.top.begin(), event.top.end());
  kept->event.text = kept->text;
  kept->event.top = kept->top;
  if (event.logprob != nullptr) kept->event.logprob = &(kept->logprob = *event.logprob);
  if (event.pass != nullptr) kept->event.pass = &(kept->pass = *event.pass);
  if (event.generation != nullptr) kept->event.generation = &(kept->generation = *event.generation);
  if (event.prompt != nullptr) {
    kept->prompt_logprobs.assign(event.prompt->logprobs.begin(), event.prompt->logprobs.end());
    kept->prompt_top.assign(event.prompt->top.begin(), event.prompt->top.end());
    kept->prompt = *event.prompt;
    kept->prompt.logprobs = kept->prompt_logprobs;
    kept->prompt.top = kept->prompt_top;
    kept->event.prompt = &kept->prompt;
  }
  later.push_back([kept](const Sink& to) { to(kept->event); });
}

void Engine::Impl::Connect(const std::shared_ptr<Active>& active, const Request& request, DecodeRequest& decode) {
  decode.on_token = [this, active](const Emitted& emitted) {
    Generation& generation = active->generation;
    const int16_t origin = emitted.drafter >= 0 ? emitted.drafter
                           : emitted.corrected  ? Generation::kCorrected
                                                : Generation::kPlain;
    std::string text = active->utf8.Push(m.tokenizer.Piece(emitted.token));
    if (std::ssize(generation.ids) >= active->min_tokens) text = active->filter.Push(text);
    generation.ids.push_back(emitted.token);
    generation.origins.push_back(origin);
    generation.text += text;
    Event event{active->id, Event::Kind::kToken, emitted.token, text, origin};
    const TokenLogprob logprob{emitted.token, emitted.logprob};
    if (emitted.has_logprob) {
      generation.logprobs.push_back(logprob);
      generation.top.emplace_back(emitted.top.begin(), emitted.top.end());
      event.logprob = &logprob;
      event.top = emitted.top;
    }
    Tell(event);
    if (active->guard && std::ssize(generation.ids) > active->min_tokens) {
      active->looped = active->guard->Push(emitted.token) && !active->filter.done() && !active->cancelled;
    }
    return !active->cancelled && !active->filter.done() && !active->looped;
  };
  decode.on_end = [this, active](const DecodeResult& result) { TellEnd(*active, result); };
  if (request.prompt_logprobs >= 0) ReportPrompt(active, request, decode);
  if (request.embed) {
    decode.on_hidden = [active](int64_t, std::span<const float> hidden) {
      active->hidden_sum.resize(hidden.size());
      for (size_t i = 0; i < hidden.size(); ++i) active->hidden_sum[i] += static_cast<double>(hidden[i]);
    };
  }
  if (request.progress) {
    decode.on_prompt = [this, active, total = std::ssize(request.prompt)](int64_t done, int64_t known, double ms) {
      PromptProgress progress{total, known, done, ms, {}, {}};
      if (done == total) {
        progress.logprobs = active->generation.prompt_logprobs;
        progress.top = active->generation.prompt_top;
      }
      Event event{active->id, Event::Kind::kPrompt};
      event.prompt = &progress;
      Tell(event);
    };
  }
  if (!request.trace) return;
  decode.on_verified = [this, active](int32_t root, const Draft& draft, const Verdict& verdict) {
    DraftTrace trace{root, {}, verdict.tokens.back()};
    for (const Draft::Node& node : draft.nodes) {
      trace.nodes.push_back({node.token, node.parent, node.probability, node.drafter, false});
    }
    for (const int32_t node : verdict.path) trace.nodes[static_cast<size_t>(node)].accepted = true;
    Event event{active->id, Event::Kind::kPass};
    event.pass = &trace;
    Tell(event);
  };
}

void Engine::Impl::ReportPrompt(const std::shared_ptr<Active>& active, const Request& request, DecodeRequest& decode) {
  decode.on_logits = [this, active, ids = request.prompt, most = static_cast<size_t>(request.prompt_logprobs)](
                         int64_t row, std::span<const float> logits) {
    if (row + 1 >= std::ssize(ids)) return;
    const Tensor all(const_cast<float*>(logits.data()), {1, std::ssize(logits)});
    RowLogprobs of = LogprobsOf(m.pool, all, ids[static_cast<size_t>(row) + 1], most);
    active->generation.prompt_logprobs.push_back(of.of);
    active->generation.prompt_top.push_back(std::move(of.top));
  };
}

void Engine::Impl::TellEnd(Active& a, const DecodeResult& result) {
  Generation& generation = a.generation;
  const bool stopped = a.filter.done();
  std::string rest;
  if (!stopped) rest = a.filter.Push(a.utf8.Finish()) + a.filter.Finish();
  generation.text += rest;
  generation.finish_reason = ReasonOf(result, stopped, a.looped);
  if (generation.finish_reason == FinishReason::kStop) {
    generation.stopped_by = stopped ? a.filter.stop() : std::string(m.tokenizer.Piece(result.end_token));
  }
  if (!a.hidden_sum.empty()) generation.embedding = UnitVector(a.hidden_sum);
  generation.timings = {m.info.load_ms,       result.queue_ms,      result.preemptions,
                        result.prompt_tokens, result.cached_tokens, result.prompt_ms,
                        result.decode_tokens, result.decode_ms,     result.pass_ms};
  const DraftCounters& c = result.counters;
  generation.draft = {c.num_drafts,
                      c.num_draft_tokens,
                      c.num_accepted_tokens,
                      c.num_accepted_tokens_per_pos,
                      c.passes,
                      c.draft_ms,
                      c.verify_ms,
                      0,
                      {},
                      c.by_drafter};
  if (a.drafters != nullptr) {
    for (const auto& member : a.drafters->members()) generation.draft.drafters.push_back(member->name());
    generation.draft.by_drafter.resize(generation.draft.drafters.size());
    generation.draft.plain_ms = scheduler->planner().curve().Ms(1);
  }
  {
    const std::lock_guard lock(mail);
    active.erase(a.id);
  }
  Event event{a.id, Event::Kind::kFinished};
  event.text = rest;
  event.generation = &generation;
  event.error = result.error;
  Tell(event);
}

bool Engine::Impl::Step(const Sink& to) {
  while (only == 0 && !later.empty()) {
    const auto event = std::move(later.front());
    later.pop_front();
    event(to);
  }
  std::vector<std::pair<std::shared_ptr<Active>, DecodeRequest>> arrived;
  std::vector<Scheduler::Id> ended;
  {
    const std::lock_guard lock(mail);
    arrived.swap(submitted);
    for (const auto& [id, a] : active) {
      if (a->cancelled && a->scheduled != 0) ended.push_back(a->scheduled);
    }
  }
  const std::lock_guard computing(m.compute);
  sink = &to;
  struct Unset {
    const Sink*& sink;
    ~Unset() { sink = nullptr; }
  } const unset{sink};
  for (auto& [a, decode] : arrived) {
    a->scheduled = scheduler->Add(std::move(decode));
    if (a->cancelled) scheduler->Cancel(a->scheduled);
  }
  for (const Scheduler::Id id : ended) scheduler->Cancel(id);
  const bool more = scheduler->Step();
  return more || !later.empty();
}

}  // namespace cambium
