#include "decode/scheduler.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <utility>

#include "decode/scheduler_part.h"
#include "model/experts.h"

namespace cambium {
namespace {

constexpr int64_t kScoreRows = 64;     // of a prompt whose logits are all wanted, in a pass
constexpr int64_t kLeastPrefill = 2;   // rows of a prompt beside decoding ones, whatever they cost
constexpr int64_t kFirstPrefill = 32;  // the same before anything was measured
constexpr int64_t kAgeRows = 16;       // rows of a prompt that a step of waiting is worth

VerifyCurve CurveOf(const ModelWeights& weights, VerifyCurve curve) {
  if (weights.config.experts > 0) curve.SetReads([&](int64_t rows) { return WeightsRead(weights, rows); });
  return curve;
}

double HeadShare(const ModelWeights& weights) {
  const ModelConfig& c = weights.config;
  double blocks = 0;
  for (const BlockWeights& block : weights.blocks) {
    for (const Linear& linear : block.linears) blocks += static_cast<double>(linear.in() * linear.out());
    if (block.experts != nullptr) blocks += static_cast<double>(3 * c.route.used * c.hidden * c.expert_ffn);
  }
  return 1 + static_cast<double>(weights.head().in() * weights.head().out()) / blocks;
}

}  // namespace

Scheduler::Scheduler(Transformer& transformer, KvCache& kv, const SchedulerOptions& options, KvCache* memory)
    : transformer_(transformer),
      kv_(kv),
      memory_(memory),
      options_(options),
      planner_(CurveOf(transformer.weights(), options.curve)),
      head_share_(HeadShare(transformer.weights())) {
  Check(transformer.config().has_encoder() == (memory != nullptr), "a model with an encoder has a memory");
  Check(options.parallel > 0 && options.prefill_rows > 0, "a scheduler runs sequences");
}

Scheduler::~Scheduler() {
  for (const auto& s : running_) Leave(*s);
}

void Scheduler::Require(const DecodeRequest& request) const {
  if (request.prompt.empty()) Fail(ErrorCode::kUsage, "the prompt is empty");
  const int64_t vocab = transformer_.config().vocab, size = std::ssize(request.prompt);
  for (const std::vector<int32_t>* ids : {&request.prompt, &request.source}) {
    for (const int32_t id : *ids) {
      if (id < 0 || id >= vocab) Fail(ErrorCode::kUsage, "token id ", id, " is outside the vocabulary of ", vocab);
    }
  }
  if (memory_ != nullptr) RequireSource(request);
  for (const auto& [id, bias] : request.sampling.logit_bias) {
    const int64_t drawn = std::min(vocab, request.vocabulary);
    if (id < 0 || id >= drawn) Fail(ErrorCode::kUsage, "logit bias for id ", id, ", the vocabulary has ", drawn);
  }
  if (request.min_tokens < 0) Fail(ErrorCode::kUsage, "min_tokens is ", request.min_tokens, ", expected 0 or more");
  if (request.max_tokens >= 0 && request.min_tokens > request.max_tokens) {
    Fail(ErrorCode::kUsage, "min_tokens is ", request.min_tokens, ", above max_tokens, ", request.max_tokens);
  }
  if (request.max_tokens < -1) Fail(ErrorCode::kUsage, "max_tokens is ", request.max_tokens, ", expected -1 or more");
  const bool reads_only = request.max_tokens == 0;
  if (size + (reads_only ? 0 : 1) > request.context) {
    Fail(ErrorCode::kUsage, "the prompt has ", size, " tokens, the context holds ", request.context,
         "; raise -c or shorten the prompt");
  }
  const Sampler sampler(request.sampling);
  const int64_t answer = request.max_tokens < 0 ? request.context : request.max_tokens;
  const int64_t before = request.grafts != nullptr ? request.grafts->slots_before() : 0;
  const int64_t most = before + std::min(request.context, size + answer);
  const int64_t unshifted = request.grafts != nullptr ? request.grafts->slots_unshifted() : 0;
  if (before - unshifted + request.context > transformer_.config().context) {
    Fail(ErrorCode::kUsage, "a context of ", before + request.context, " is beyond the model's ",
         transformer_.config().context, " positions");
  }
  if (most > kv_.max_slots()) {
    Fail(ErrorCode::kResource, "the request may take ", most, " slots, the KV cache has ", kv_.max_slots(),
         "; make the cache larger, or lower max_tokens");
  }
}

void Scheduler::RequireSource(const DecodeRequest& request) const {
  const int64_t size = std::ssize(request.source), most = transformer_.config().context;
  if (size == 0) Fail(ErrorCode::kUsage, "the source is empty");
  if (size > most) {
    Fail(ErrorCode::kUsage, "the source has ", size, " tokens, the encoder reads at most ", most, "; shorten it");
  }
  int64_t slots = size;
  if (request.grafts != nullptr) {
    for (const Graft* graft : request.grafts->grafts) slots += graft->cross_prefix_length();
  }
  if (slots > memory_->max_slots()) {
    Fail(ErrorCode::kResource, "the source takes ", slots, " slots, the memory of sources has ", memory_->max_slots());
  }
}

Scheduler::Id Scheduler::Add(DecodeRequest request) {
  Require(request);
  waiting_.push_back(std::make_unique<Sequence>(next_id_, std::move(request)));
  return next_id_++;
}

bool Scheduler::Cancel(Id id) {
  const auto cancel = [&](const std::unique_ptr<Sequence>& s) {
    if (s == nullptr || s->id != id || s->cancelled) return false;
    return s->cancelled = true;
  };
  return std::ranges::any_of(running_, cancel) || std::ranges::any_of(waiting_, cancel);
}

bool Scheduler::Step() {
  Reap();
  Admit();
  stats_.waiting = std::ssize(waiting_);
  stats_.running = std::ssize(running_);
  if (running_.empty()) {
    if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
    return false;
  }
  std::vector<Part> parts = PlanDecoding();
  PlanPrefill(parts);
  if (!parts.empty()) RunPass(parts);
  std::erase_if(running_, [](const auto& s) { return s == nullptr; });
  stats_.waiting = std::ssize(waiting_);
  stats_.running = std::ssize(running_);
  if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
  return !running_.empty() || !waiting_.empty();
}

void Scheduler::Reap() {
  for (auto& s : running_) {
    if (s->cancelled) Finish(*s, StopReason::kCancelled);
  }
  std::erase_if(running_, [](const auto& s) { return s == nullptr; });
  for (auto& s : waiting_) {
    if (s->cancelled) End(std::move(s), StopReason::kCancelled, nullptr);
  }
  std::erase_if(waiting_, [](const auto& s) { return s == nullptr; });
}

void Scheduler::Admit() {
  while (!waiting_.empty() && std::ssize(running_) < options_.parallel) {
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

// One token a slot: those that grafts fill have numbers of their own.
std::vector<int32_t> Scheduler::SlotTokens(const Sequence& s, int64_t tokens) const {
  std::vector<int32_t> slots;
  slots.reserve(static_cast<size_t>(s.slots_before + tokens));
  for (int64_t i = 0; i < s.slots_before; ++i) slots.push_back(static_cast<int32_t>(-1 - i));
  slots.insert(slots.end(), s.tokens.begin(), s.tokens.begin() + tokens);
  return slots;
}

void Scheduler::Publish(Sequence& s, int64_t tokens, bool last) {
  if (!s.shares_pages || s.kv < 0 || tokens <= 0) return;
  if (!last && tokens < s.published + KvCache::kPageSlots) return;
  if (s.slots_before == 0) {
    kv_.Publish(s.kv, s.key, std::span(s.tokens).first(static_cast<size_t>(tokens)), last);
  } else {
    kv_.Publish(s.kv, s.key, SlotTokens(s, tokens), last);
  }
  s.published = tokens;
}

void Scheduler::Append(const Sequence& s, Pass& pass, KvCache::Id kv, int64_t computed, std::span<const int32_t> tokens,
                       std::span<const int32_t> parents) const {
  Pass::Segment& segment = pass.Append(kv, s.slots_before + computed, tokens, parents);
  segment.grafts = s.grafts();
  segment.memory = s.memory;
  pass.memory = memory_;
  for (int64_t row = 0; row < segment.count && s.unshifted > 0; ++row) {
    pass.positions[static_cast<size_t>(segment.begin + row)] -= static_cast<int32_t>(s.unshifted);
  }
}

// What the decoder sees of the source: known, or made by a pass of the encoder.
bool Scheduler::PlaceMemory(Sequence& s) {
  const uint64_t key = SourceKey(s.request);
  std::vector<int32_t> slots;
  for (const Graft* graft : s.grafts())
    slots.insert(slots.end(), static_cast<size_t>(graft->cross_prefix_length()), -1);
  slots.insert(slots.end(), s.request.source.begin(), s.request.source.end());
  s.memory = memory_->Open();
  try {
    if (memory_->Attach(s.memory, key, slots) == std::ssize(slots)) return true;
    memory_->Truncate(s.memory, 0);
    if (!memory_->TryGrow(s.memory, std::ssize(slots))) {
      memory_->Close(std::exchange(s.memory, -1));
      return false;
    }
    Pass pass;
    pass.compute = options_.compute;
    pass.encoder = true;
    pass.memory = memory_;
    Pass::Segment& segment = pass.Append(-1, 0, s.request.source);
    segment.grafts = s.grafts();
    segment.memory = s.memory;
    transformer_.Forward(pass);
    memory_->Publish(s.memory, key, slots, true);
  } catch (...) {
    memory_->Close(std::exchange(s.memory, -1));
    throw;
  }
  return true;
}

bool Scheduler::Place(Sequence& s) {
  if (memory_ != nullptr && s.memory < 0 && !PlaceMemory(s)) return false;
  const bool keeps = s.request.drafters != nullptr && s.request.drafters->keeps_kv();
  // A draft module's slots stand `slots_before` lower, so that a page holds more of its text than the page's tokens
  // tell.
  s.shares_pages = !s.request.shows_rows() && !(keeps && s.slots_before > 0);
  // The last token is always computed: its logits are what is wanted.
  const std::vector<int32_t> slots = SlotTokens(s, std::ssize(s.tokens) - 1);
  const auto prefix = std::span(slots).first(static_cast<size_t>(s.slots_before));
  if (s.slots_before > 0 && kv_.Known(s.key, prefix) < s.slots_before && !PlacePrefix(s)) return false;
  s.kv = kv_.Open();
  int64_t known = kv_.Attach(s.kv, s.key, s.shares_pages ? std::span<const int32_t>(slots) : prefix);
  Check(known >= s.slots_before, "what grafts fill is known");
  // A module's row looks at the token behind it, which may have been another's here.
  if (keeps && known > s.slots_before) kv_.Truncate(s.kv, --known);
  s.computed = s.published = known - s.slots_before;
  if (s.drawn() == 0) {
    s.result.cached_tokens = s.computed;
    stats_.prefix_queries += s.prompt;
    stats_.prefix_hits += s.computed;
  }
  if (s.request.drafters == nullptr) return true;
  s.text.reset(new DraftText{s.tokens, s.kv, s.slots_before, s.computed, s.grafts(), s.request.sampling,
                             s.request.verify.kind == VerifyRule::kRejection, s.request.constraint.get()});
  s.drafting = s.request.drafters->Open(*s.text);
  return true;
}

// Computes what the grafts put before every text, once for all sequences of the key.
bool Scheduler::PlacePrefix(const Sequence& s) {
  const KvCache::Id place = kv_.Open();
  try {
    if (!kv_.TryGrow(place, s.slots_before)) {
      kv_.Close(place);
      return false;
    }
    transformer_.BeginSequence(kv_, place, s.grafts());
    kv_.Publish(place, s.key, SlotTokens(s, 0), true);
  } catch (...) {
    kv_.Close(place);
    throw;
  }
  kv_.Close(place);
  return true;
}

// A prompt that begins as one that is being computed waits for it, and finds it known.
bool Scheduler::WaitsForKnown(const Sequence& s) const {
  if (s.request.shows_rows()) return false;
  for (const auto& other : running_) {
    if (other == nullptr || other.get() == &s || other->kv < 0 || !other->shares_pages || other->todo() <= 1) continue;
    if (s.key != other->key) continue;
    const auto end = s.tokens.begin() + std::min(std::ssize(s.tokens) - 1, std::ssize(other->tokens));
    const int64_t common = std::mismatch(s.tokens.begin(), end, other->tokens.begin()).first - s.tokens.begin();
    if (common >= other->computed + KvCache::kPageSlots) return true;
  }
  return false;
}

void Scheduler::Leave(Sequence& s) {
  if (s.memory >= 0) memory_->Close(std::exchange(s.memory, -1));
  if (s.kv < 0) return;
  Publish(s, std::min(s.computed, s.drafting.kept()), true);
  s.drafting = {};
  s.text.reset();
  kv_.Close(std::exchange(s.kv, -1));
  s.computed = s.published = 0;
}

void Scheduler::Finish(Sequence& s, StopReason reason, std::exception_ptr error) {
  const auto slot = std::ranges::find(running_, &s, &std::unique_ptr<Sequence>::get);
  Check(slot != running_.end(), "a sequence that ends runs");
  End(std::move(*slot), reason, std::move(error));
}

void Scheduler::End(std::unique_ptr<Sequence> ended, StopReason reason, std::exception_ptr error) {
  Sequence& s = *ended;
  Leave(s);
  s.result.reason = reason;
  s.result.error = std::move(error);
  const Clock::time_point now = Clock::now();
  if (!s.begun) s.started = now;
  if (s.emitted == 0) s.first = now;
  s.result.prompt_tokens = s.begun ? s.prompt - s.result.cached_tokens : 0;
  s.result.queue_ms = Millis(s.started - s.added);
  s.result.prompt_ms = Millis(s.first - s.started);
  s.result.decode_ms = Millis(now - s.first);
  s.result.decode_tokens = std::max<int64_t>(0, s.emitted - 1);
  if (!s.request.on_end) return;
  try {
    s.request.on_end(s.result);
  } catch (...) {
    if (!thrown_) thrown_ = std::current_exception();
  }
}

void Scheduler::Preempt(Sequence& s) {
  ++stats_.preemptions;
  ++s.result.preemptions;
  Leave(s);
  const auto slot = std::ranges::find(running_, &s, &std::unique_ptr<Sequence>::get);
  waiting_.push_front(std::move(*slot));
}

// Makes room by sending the youngest away, to be computed again later; false if the sequence itself has to go.
bool Scheduler::GrowOrPreempt(Sequence& s, int64_t slots) {
  while (!kv_.TryGrow(s.kv, slots)) {
    Sequence* youngest = &s;
    for (const auto& other : running_) {
      if (other != nullptr && other->kv >= 0 && other->id > youngest->id) youngest = other.get();
    }
    Preempt(*youngest);
    if (youngest == &s) return false;
  }
  return true;
}

// A row of every sequence that decodes, with the drafts that pay.
std::vector<Scheduler::Part> Scheduler::PlanDecoding() {
  std::vector<Sequence*> decoding;
  for (const auto& s : running_) {
    if (s->decodes()) decoding.push_back(s.get());
  }
  // Rows of one graft set stand together; otherwise the oldest first.
  std::ranges::sort(decoding, {}, [](const Sequence* s) { return std::pair(s->key, s->id); });
  std::vector<Planner::Task> tasks;
  for (Sequence* s : decoding) {
    const int64_t left = s->LeftToDraw(), room = s->request.context - std::ssize(s->tokens);
    // A path of d nodes draws d + 1 tokens, of which the last needs no row.
    tasks.push_back({s->request.drafters, &s->drafting, s->request.max_rows - 1, std::min(left - 1, room), {}});
  }
  const int64_t budget = options_.logit_floats / transformer_.config().vocab - std::ssize(tasks);
  try {
    planner_.Propose(tasks, std::max<int64_t>(budget, 0));
  } catch (...) {  // of a drafter: whoever drafts ends, the others go on
    for (size_t i = 0; i < decoding.size(); ++i) {
      tasks[i].draft = {};
      if (tasks[i].set != nullptr)
        Finish(*std::exchange(decoding[i], nullptr), StopReason::kFailed, std::current_exception());
    }
  }
  std::vector<Part> parts;
  for (size_t i = 0; i < decoding.size(); ++i) {
    if (decoding[i] == nullptr) continue;
    Sequence& s = *decoding[i];
    if (s.kv < 0) continue;  // another's growth sent it away
    s.result.counters.draft_ms += planner_.draft_ms() / static_cast<double>(decoding.size());
    Part part{&s};
    const int64_t slots = s.slots_before + std::ssize(s.tokens);
    if (kv_.TryGrow(s.kv, slots + tasks[i].draft.size())) {
      part.draft = std::move(tasks[i].draft);
    } else if (!GrowOrPreempt(s, slots)) {
      continue;
    }
    parts.push_back(std::move(part));
  }
  std::erase_if(parts, [](const Part& part) { return part.sequence->kv < 0; });
  std::erase_if(running_, [](const auto& s) { return s == nullptr; });
  return parts;
}

int64_t Scheduler::PrefillRows(int64_t decoding_rows) const {
  if (decoding_rows == 0 || std::isinf(options_.prefill_stretch)) return options_.prefill_rows;
  if (prefill_ms_per_row_ <= 0) return kFirstPrefill;
  const VerifyCurve& curve = planner_.curve();
  // Where many decode, a pass is long already: then prompts may double it.
  const double longest = std::max(options_.prefill_stretch * curve.Ms(1), 2 * curve.Ms(decoding_rows));
  const double spare = longest - curve.Ms(decoding_rows);
  return std::clamp(static_cast<int64_t>(spare / prefill_ms_per_row_), kLeastPrefill, options_.prefill_rows);
}

void Scheduler::PlanPrefill(std::vector<Part>& parts) {
  int64_t decoding_rows = 0;
  for (const Part& part : parts) decoding_rows += 1 + part.draft.size();
  int64_t left = PrefillRows(decoding_rows);
  std::vector<Sequence*> prefilling;
  for (const auto& s : running_) {
    if (!s->decodes()) prefilling.push_back(s.get());
  }
  // The shortest first, but none waits for ever.
  std::ranges::stable_sort(prefilling, {}, [](const Sequence* s) { return s->todo() - kAgeRows * s->waited; });
  for (Sequence* s : prefilling) {
    if (left <= 0) {
      ++s->waited;
      continue;
    }
    if (std::ranges::find(running_, s, &std::unique_ptr<Sequence>::get) == running_.end()) continue;  // sent away
    try {
      if (s->kv < 0 && (WaitsForKnown(*s) || !Place(*s))) {
        ++s->waited;
        if (parts.empty() && s == prefilling.back() && std::ssize(running_) == 1) {
          Fail(ErrorCode::kResource, "the KV cache of ", kv_.max_slots(), " slots has no room for the grafts' ",
               s->slots_before);
        }
        continue;
      }
      const int64_t rows =
          std::min({s->todo(), left, s->request.on_logits && s->shown < s->prompt ? kScoreRows : left});
      const int64_t slots = s->slots_before + s->computed + rows;
      // Prompts take what decoding leaves; only the oldest may send others away.
      const bool oldest = std::ranges::none_of(running_, [&](const auto& o) { return o != nullptr && o->id < s->id; });
      if (!kv_.TryGrow(s->kv, slots) && !(oldest && GrowOrPreempt(*s, slots))) {
        ++s->waited;
        if (s->kv >= 0 && parts.empty()) Preempt(*s);
        continue;
      }
      parts.push_back({s, rows});
      left -= rows;
    } catch (...) {
      Finish(*s, StopReason::kFailed, std::current_exception());
    }
  }
  std::erase_if(parts, [](const Part& part) { return part.sequence->kv < 0; });
  std::erase_if(running_, [](const auto& s) { return s == nullptr; });
}

double Scheduler::TimePass(const DecodeRequest& request, std::span<const int32_t> rows) {
  constexpr int kPasses = 20;
  Require(request);
  Sequence s(0, request);
  s.tokens.push_back(rows[0]);
  if (!Place(s)) Fail(ErrorCode::kResource, "the KV cache has no room for a pass");
  double ms = 0;
  const auto run = [&](std::span<const int32_t> tokens, bool logits) {
    Pass pass;
    pass.compute = options_.compute;
    pass.kv = &kv_;
    Append(s, pass, s.kv, s.computed, tokens);
    for (int32_t row = 0; logits && row < std::ssize(tokens); ++row) pass.logit_rows.push_back(row);
    const Clock::time_point start = Clock::now();
    transformer_.Forward(pass);
    ms = Millis(Clock::now() - start);
  };
  try {
    while (s.computed < s.prompt) {  // what the cache did not keep
      const int64_t count = std::min(s.prompt - s.computed, options_.prefill_rows);
      run(std::span(request.prompt).subspan(static_cast<size_t>(s.computed), static_cast<size_t>(count)), false);
      kv_.Commit(s.kv, count);
      s.computed += count;
    }
    for (int i = 0; i < kPasses; ++i) run(rows, true);
  } catch (...) {
    Leave(s);
    throw;
  }
  Leave(s);
  return ms;
}

DecodeResult RunToEnd(Scheduler& scheduler, DecodeRequest request) {
  std::optional<DecodeResult> result;
  const auto told = std::move(request.on_end);
  request.on_end = [&](const DecodeResult& ended) {
    result = ended;
    if (told) told(ended);
  };
  scheduler.Add(std::move(request));
  while (!result) {
    if (!scheduler.Step()) Check(result.has_value(), "a request ends before the scheduler is idle");
  }
  if (result->error) std::rethrow_exception(result->error);
  return std::move(*result);
}

}  // namespace cambium
