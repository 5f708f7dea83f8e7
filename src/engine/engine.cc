#include <cmath>

#include "base/random.h"
#include "engine/impl.h"
#include "grafts/prefix.h"
#include "ops/ops.h"

namespace cambium {

Engine::Engine(const Model& model, const EngineOptions& options) : impl_(std::make_unique<Impl>(model, options)) {}
Engine Engine::Load(const std::string& model, const EngineOptions& options) {
  return Engine(Model::Load(model, options.threads), options);
}
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

const Model& Engine::model() const { return impl_->model; }
int64_t Engine::context() const { return impl_->context; }

RequestId Engine::Submit(Request request) {
  Impl& e = *impl_;
  if (request.beams.count != 1) {
    Fail(ErrorCode::kUsage, "beams is ", request.beams.count, ": a request among others is drawn, expected 1");
  }
  DecodeRequest decode = e.ToDecode(request);
  e.scheduler->Require(decode);
  const std::lock_guard lock(e.mail);
  const auto active = std::make_shared<Impl::Active>(e.next, request);
  active->drafters = decode.drafters;
  e.Connect(active, request, decode);
  e.submitted.emplace_back(active, std::move(decode));
  e.active.emplace(active->id, active);
  return e.next++;
}

void Engine::Cancel(RequestId request) {
  const std::lock_guard lock(impl_->mail);
  const auto found = impl_->active.find(request);
  if (found != impl_->active.end()) found->second->cancelled = true;
}

bool Engine::Step(const Sink& sink) { return impl_->Step(sink); }

Generation Engine::Generate(Request request, const Sink& sink) {
  Impl& e = *impl_;
  Check(e.only == 0, "Generate is not called from a sink");
  if (request.beams.count != 1) return e.Search(request, sink);
  const RequestId id = Submit(std::move(request));
  struct Only {
    RequestId& only;
    ~Only() { only = 0; }
  } const restore{e.only};
  e.only = id;
  Generation generation;
  std::exception_ptr error;
  bool ended = false;
  const Sink own = [&](const Event& event) {
    if (event.kind == Event::Kind::kFinished) {
      ended = true;
      generation = *event.generation;
      error = event.error;
    }
    if (sink) sink(event);
  };
  while (!ended) e.Step(own);
  if (error) std::rethrow_exception(error);
  return generation;
}

void Engine::ForEachLogits(std::span<const int32_t> ids,
                           const std::function<void(int64_t row, std::span<const float>)>& use,
                           const std::vector<AdapterUse>& adapters) {
  Impl& e = *impl_;
  Request request;
  request.prompt.assign(ids.begin(), ids.end());
  request.adapters = adapters;
  request.max_tokens = 0;
  DecodeRequest decode = e.ToDecode(request);
  decode.on_logits = use;
  const std::lock_guard computing(e.m.compute);
  RunToEnd(*e.scheduler, std::move(decode));
}

Score Engine::ScoreIds(std::span<const int32_t> ids, const std::vector<AdapterUse>& adapters) {
  if (ids.size() < 2) Fail(ErrorCode::kUsage, "a score needs at least 2 tokens, the text has ", ids.size());
  Score score;
  score.ids.assign(ids.begin(), ids.end());
  double sum = 0;
  ForEachLogits(
      ids,
      [&](int64_t row, std::span<const float> logits) {
        if (row + 1 >= static_cast<int64_t>(ids.size())) return;
        const int32_t target = ids[static_cast<size_t>(row) + 1];
        const Tensor all(const_cast<float*>(logits.data()), {1, static_cast<int64_t>(logits.size())});
        float logprob = 0;
        TargetLogProbs(impl_->m.pool, all, {&target, 1}, {&logprob, 1});
        if (!std::isfinite(logprob)) {
          Fail(ErrorCode::kRuntime, "the model's logits behind token ", row,
               " are not finite; `cambium inspect --check` looks for NaN");
        }
        score.logprobs.push_back(logprob);
        sum -= logprob;
      },
      adapters);
  score.loss = sum / static_cast<double>(score.logprobs.size());
  score.perplexity = std::exp(score.loss);
  return score;
}

void Engine::CompilePrefix(std::span<const int32_t> ids, const std::string& directory) {
  Impl& e = *impl_;
  for (const int32_t id : ids) {
    const int64_t vocab = e.m.info.vocab;
    if (id < 0 || id >= vocab) Fail(ErrorCode::kUsage, "token id ", id, " is outside the vocabulary of ", vocab);
  }
  const std::lock_guard computing(e.m.compute);
  const std::unique_ptr<PrefixGraft> prefix =
      PrefixGraft::Compile(e.m.transformer.base(), ids, e.compute, e.kv->dtype());
  prefix->set_base(e.m.path);
  prefix->Save(directory);
}

void Engine::ForgetCached() {
  const std::lock_guard computing(impl_->m.compute);
  impl_->kv->Forget();
}

double Engine::TimePass(int64_t depth, int64_t rows, const std::vector<AdapterUse>& adapters) {
  constexpr uint64_t kSeed = 1;
  Impl& e = *impl_;
  if (depth < 1 || rows < 1 || rows > Impl::kMostRows) {
    Fail(ErrorCode::kUsage, "a pass of ", rows, " rows behind ", depth, " tokens cannot be timed");
  }
  const Philox noise(kSeed);
  std::vector<int32_t> ids(static_cast<size_t>(depth + rows));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>(noise.Uniform(i, 0) * static_cast<double>(e.m.tokenizer.text_size()));
  }
  Request prompt;  // leaves its keys and values for the passes below
  prompt.prompt.assign(ids.begin(), ids.begin() + depth);
  prompt.adapters = adapters;
  prompt.drafting.drafters = {"none"};
  prompt.max_tokens = 0;
  DecodeRequest decode = e.ToDecode(prompt);
  const std::shared_ptr<const GraftSet> grafts = decode.grafts;
  const std::lock_guard computing(e.m.compute);
  RunToEnd(*e.scheduler, decode);
  return e.scheduler->TimePass(decode, std::span(ids).last(static_cast<size_t>(rows)));
}

EngineStats Engine::stats() const {
  const Scheduler::Stats& s = impl_->scheduler->stats();
  const KvCache::Stats kv = impl_->kv->stats();
  return {s.waiting, s.running, s.steps,   s.rows,   s.prompt_rows, s.preemptions,    s.last_rows,  s.last_ms,
          kv.pages,  kv.used,   kv.shared, kv.known, kv.evicted,    s.prefix_queries, s.prefix_hits};
}

std::vector<PassCost> Engine::PassCosts() const {
  const VerifyCurve& curve = impl_->scheduler->planner().curve();
  std::vector<PassCost> costs;
  if (!curve.measured()) return costs;
  for (int64_t rows = 1; rows <= 64; rows *= 2) costs.push_back({rows, curve.Ms(rows)});
  return costs;
}

}  // namespace cambium
