#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/isa.h"
#include "decode/planner.h"
#include "drafters/drafters.h"
#include "engine_impl.h"
#include "grafts/grafts.h"
#include "io/model_cache.h"
#include "io/unicode.h"
#include "model/heads.h"

namespace cambium {
namespace {

constexpr int64_t kDefaultContext = 4096;
constexpr int64_t kMostRows = 1024;  // of a verifying pass; as many spare slots lie beyond the context

DType KvType(const EngineOptions& options) {
  if (options.kv_type.empty()) return options.exact ? DType::kF32 : DType::kF16;
  if (options.kv_type == "f16") return DType::kF16;
  if (options.kv_type == "f32") return DType::kF32;
  Fail(ErrorCode::kUsage, "KV type is \"", options.kv_type, "\", expected f16 or f32");
}

int ThreadCount(int asked) {
  if (asked < 0 || asked > 1024) Fail(ErrorCode::kUsage, "threads is ", asked, ", expected 1 to 1024");
  return asked == 0 ? DefaultThreads() : asked;
}

int64_t ContextLength(const ModelConfig& config, int64_t asked) {
  if (asked < 0) Fail(ErrorCode::kUsage, "context is ", asked, ", expected a positive number");
  if (asked > config.context) {
    Fail(ErrorCode::kUsage, "context ", asked, " is beyond the model's ", config.context, " positions");
  }
  return asked > 0 ? asked : std::min(config.context, kDefaultContext);
}

void CheckIds(std::span<const int32_t> ids, int64_t vocab) {
  for (int32_t id : ids) {
    if (id < 0 || id >= vocab) Fail(ErrorCode::kUsage, "token id ", id, " is outside the vocabulary of ", vocab);
  }
}

// Holds text back while it may be the beginning of a stop string, and ends it at the first stop string.
class StopFilter {
 public:
  explicit StopFilter(const std::vector<std::string>& stops) : stops_(stops) {
    for (const std::string& stop : stops) {
      if (stop.empty()) Fail(ErrorCode::kUsage, "a stop string is empty");
    }
  }

  // What may be shown after `text` came; `done` is set once a stop string was seen.
  std::string Push(std::string_view text) {
    held_ += text;
    size_t end = std::string::npos;
    for (const std::string& stop : stops_) end = std::min(end, held_.find(stop));
    if (end != std::string::npos) {
      done_ = true;
      return held_.substr(0, end);
    }
    size_t keep = 0;
    for (const std::string& stop : stops_) {
      for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
        if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) keep = n;
      }
    }
    std::string shown = held_.substr(0, held_.size() - keep);
    held_.erase(0, held_.size() - keep);
    return shown;
  }
  std::string Finish() { return done_ ? std::string() : std::exchange(held_, {}); }
  bool done() const { return done_; }

 private:
  const std::vector<std::string>& stops_;
  std::string held_;
  bool done_ = false;
};

}  // namespace

Engine::Impl::Impl(const std::string& model, const EngineOptions& options)
    : path(ResolveModel(model)),
      options(options),
      pool(ThreadCount(options.threads)),
      transformer(LoadWeights(pool, path), pool),
      tokenizer(LoadTokenizer(path)),
      compute(options.exact ? Compute::kF32 : Compute::kInt8),
      context(ContextLength(transformer.config(), options.context)),
      kv(transformer.config(), KvType(options), context + kMostRows) {
  if (tokenizer.vocab_size() > transformer.config().vocab) {
    Fail(ErrorCode::kData, path, ": the tokenizer has ", tokenizer.vocab_size(), " tokens, the embedding ",
         transformer.config().vocab, " rows");
  }
  state.sequence = kv.NewSequence();
}

Drafter* Engine::Impl::DrafterFor(const std::vector<std::string>& specs) {
  const auto key = std::pair(specs, state.grafts);
  auto found = drafters.find(key);
  if (found == drafters.end()) {
    found = drafters.emplace(key, MakeDrafters(specs, {transformer, kv, state, tokenizer, compute, context})).first;
  }
  return found->second.get();
}

int64_t Engine::Impl::UseGrafts(const std::vector<std::string>& specs) {
  std::vector<Graft*> wanted;
  std::vector<std::string> names;
  for (const std::string& spec : specs) {
    std::vector<std::unique_ptr<Graft>>& parts = grafts[spec];
    if (parts.empty()) {
      const GraftSpec parsed = ParseGraftSpec(spec);
      parts = LoadGrafts(parsed.path, transformer, parsed.scale);
      for (const auto& part : parts) {
        if (compute == Compute::kInt8 && part->heads() != nullptr) part->heads()->Freeze();
      }
    }
    for (const auto& part : parts) {
      wanted.push_back(part.get());
      names.push_back(spec);
    }
  }
  CheckStack(names, wanted, transformer.config());
  int64_t prefix = 0;
  for (const Graft* graft : wanted) prefix += graft->slots_before();
  const int64_t room = std::min(context, transformer.config().context - prefix);
  if (room < 1) {
    Fail(ErrorCode::kUsage, "the grafts' prefix of ", prefix, " leaves nothing of the model's ",
         transformer.config().context, " positions");
  }
  if (kv.max_slots() < prefix + context + kMostRows) {
    kv = KvCache(transformer.config(), kv.dtype(), prefix + context + kMostRows);
    state = {kv.NewSequence(), {}, {}};
  }
  if (wanted != state.grafts) state.Restart(transformer, kv, wanted);
  return room;
}

DraftReport Engine::Impl::Report(const Drafter* drafter, const DraftCounters& counters) const {
  DraftReport report;
  report.num_drafts = counters.num_drafts;
  report.num_draft_tokens = counters.num_draft_tokens;
  report.num_accepted_tokens = counters.num_accepted_tokens;
  report.num_accepted_tokens_per_pos = counters.num_accepted_tokens_per_pos;
  report.passes = counters.passes;
  report.draft_ms = counters.draft_ms;
  report.verify_ms = counters.verify_ms;
  if (const auto* planner = dynamic_cast<const Planner*>(drafter); planner != nullptr) {
    for (const auto& member : planner->members()) report.drafters.push_back(member->name());
    report.plain_ms = planner->curve().Ms(1);
  }
  return report;
}

Engine Engine::Load(const std::string& model, const EngineOptions& options) {
  ApplyIsaFromEnv();
  const auto start = std::chrono::steady_clock::now();
  auto impl = std::make_unique<Impl>(model, options);
  impl->load_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return Engine(std::move(impl));
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

std::vector<int32_t> Engine::Tokenize(std::string_view text, bool special, bool add_bos) const {
  return impl_->tokenizer.Encode(text, add_bos, special);
}

std::string Engine::Detokenize(std::span<const int32_t> ids) const {
  Utf8Stream utf8;
  std::string text = utf8.Push(impl_->tokenizer.Decode(ids));
  return text + utf8.Finish();
}

std::string Engine::Piece(int32_t id) const { return std::string(impl_->tokenizer.Piece(id)); }

std::string Engine::ApplyTemplate(std::span<const Message> messages, bool add_generation_prompt) const {
  const Tokenizer& tokenizer = impl_->tokenizer;
  if (tokenizer.chat_template().empty()) {
    Fail(ErrorCode::kUsage, impl_->path, ": the model has no chat template; use `generate`");
  }
  nlohmann::json list = nlohmann::json::array();
  for (const Message& message : messages) list.push_back({{"role", message.role}, {"content", message.content}});
  const auto name = [&](int32_t id) { return id < 0 ? std::string() : std::string(tokenizer.Piece(id)); };
  return ChatTemplate(tokenizer.chat_template())
      .Render(list, add_generation_prompt, {{"bos_token", name(tokenizer.bos())}, {"eos_token", name(tokenizer.eos())}});
}

std::vector<int32_t> Engine::TokenizeChat(std::span<const Message> messages, bool add_generation_prompt) const {
  const Tokenizer& tokenizer = impl_->tokenizer;
  // Each control token in a content is broken behind its first byte by a noncharacter, at which the text is cut again.
  constexpr std::string_view kBreak = "\uFDD0";
  std::vector<Message> guarded(messages.begin(), messages.end());
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string_view piece = tokenizer.Piece(id);
    if (tokenizer.Type(id) != TokenType::kControl || piece.size() < 2) continue;
    for (Message& message : guarded) {
      for (size_t at = 0; (at = message.content.find(piece, at)) != std::string::npos; at += kBreak.size()) {
        message.content.insert(at + 1, kBreak);
      }
    }
  }
  const std::string text = ApplyTemplate(guarded, add_generation_prompt);
  std::vector<int32_t> ids;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(kBreak, begin), text.size());
    const std::vector<int32_t> part = tokenizer.Encode(std::string_view(text).substr(begin, end - begin), false, true);
    ids.insert(ids.end(), part.begin(), part.end());
    begin = end + kBreak.size();
  }
  return ids;
}

Generation Engine::Generate(std::span<const int32_t> prompt, const GenerateOptions& options,
                            const std::function<bool(std::string_view)>& on_text) {
  Impl& e = *impl_;
  if (prompt.empty()) Fail(ErrorCode::kUsage, "the prompt is empty");
  CheckIds(prompt, vocab());
  for (const auto& [id, bias] : options.sampling.logit_bias) {
    if (id < 0 || id >= vocab()) Fail(ErrorCode::kUsage, "logit bias for id ", id, ", the vocabulary has ", vocab());
  }
  const int64_t room = e.UseGrafts(options.grafts);
  if (static_cast<int64_t>(prompt.size()) >= room) {
    Fail(ErrorCode::kUsage, "the prompt has ", prompt.size(), " tokens, the context holds ", room,
         "; raise -c or shorten the prompt");
  }
  Sampler sampler(options.sampling);
  StopFilter filter(options.stop);
  Utf8Stream utf8;
  Generation generation;
  const auto show = [&](const std::string& text) {
    generation.text += text;
    return text.empty() || !on_text || on_text(text);
  };

  DecodeRequest request;
  request.prompt.assign(prompt.begin(), prompt.end());
  request.max_tokens = options.max_tokens;
  request.context = e.state.prefix + room;
  request.compute = e.compute;
  if (!options.ignore_end) {
    request.is_end = [&](int32_t token) { return e.tokenizer.IsEndOfGeneration(token); };
  }
  Drafter* drafter = e.DrafterFor(options.drafters);
  if (options.draft_rows < 1 || options.draft_rows > kMostRows) {
    Fail(ErrorCode::kUsage, "draft_rows is ", options.draft_rows, ", expected 1 to ", kMostRows);
  }
  request.max_rows = options.draft_rows;
  request.verify = ParseVerifyRule(options.verify);
  request.on_verified = e.on_verified;
  request.on_token = [&](const Emitted& emitted) {
    generation.origins.push_back(emitted.drafter >= 0 ? emitted.drafter
                                 : emitted.corrected  ? Generation::kCorrected
                                                      : Generation::kPlain);
    const bool going = show(filter.Push(utf8.Push(e.tokenizer.Piece(emitted.token))));
    return going && !filter.done();
  };
  DecodeResult result;
  try {
    result = cambium::Generate(e.transformer, e.kv, e.state, sampler, drafter, request);
  } catch (...) {
    e.state.Restart(e.transformer, e.kv);
    throw;
  }
  if (!filter.done()) show(filter.Push(utf8.Finish()) + filter.Finish());
  generation.ids = std::move(result.tokens);
  generation.draft = e.Report(drafter, result.counters);
  generation.finish_reason = result.reason == StopReason::kEnd || filter.done()  ? "stop"
                             : result.reason == StopReason::kCancelled ? "cancelled"
                                                                       : "length";
  generation.timings = {e.load_ms, result.prompt_tokens, result.prompt_ms, result.decode_tokens, result.decode_ms, std::move(result.pass_ms)};
  return generation;
}

void Engine::ForEachLogits(std::span<const int32_t> ids,
                           const std::function<void(int64_t row, std::span<const float>)>& use,
                           const std::vector<std::string>& grafts) {
  Impl& e = *impl_;
  constexpr size_t kChunk = 64;  // rows of logits at a time
  CheckIds(ids, vocab());
  const int64_t room = e.UseGrafts(grafts);
  if (static_cast<int64_t>(ids.size()) > room) {
    Fail(ErrorCode::kUsage, "the text has ", ids.size(), " tokens, the context holds ", room, "; raise -c");
  }
  const int sequence = e.state.sequence;
  e.state.Restart(e.transformer, e.kv, e.state.grafts);
  for (size_t begin = 0; begin < ids.size(); begin += kChunk) {
    const std::span<const int32_t> chunk = ids.subspan(begin, std::min(kChunk, ids.size() - begin));
    Pass pass;
    pass.compute = e.compute;
    pass.kv = &e.kv;
    pass.Append(sequence, e.kv.length(sequence), chunk).grafts = e.state.grafts;
    for (size_t i = 0; i < chunk.size(); ++i) pass.logit_rows.push_back(static_cast<int32_t>(i));
    e.transformer.Forward(pass);
    for (size_t i = 0; i < chunk.size(); ++i) {
      use(static_cast<int64_t>(begin + i),
          {pass.logits.row(static_cast<int64_t>(i)), static_cast<size_t>(pass.logits.columns())});
    }
    CommitAll(pass);
  }
  e.state.Restart(e.transformer, e.kv);
}

Score Engine::ScoreIds(std::span<const int32_t> ids, const std::vector<std::string>& grafts) {
  if (ids.size() < 2) Fail(ErrorCode::kUsage, "a score needs at least 2 tokens, the text has ", ids.size());
  Score score;
  score.ids.assign(ids.begin(), ids.end());
  double sum = 0;
  ForEachLogits(ids, [&](int64_t row, std::span<const float> logits) {
    if (row + 1 >= static_cast<int64_t>(ids.size())) return;
    const float top = *std::max_element(logits.begin(), logits.end());
    double total = 0;
    for (float logit : logits) total += std::exp(static_cast<double>(logit - top));
    const double logprob =
        static_cast<double>(logits[static_cast<size_t>(ids[static_cast<size_t>(row) + 1])]) - top - std::log(total);
    if (!std::isfinite(logprob)) {
      Fail(ErrorCode::kRuntime, "the log-probability of token ", row + 1, " is ", logprob,
           ": the model's logits are not finite; `cambium inspect --check` looks for NaN");
    }
    score.logprobs.push_back(logprob);
    sum -= logprob;
  }, grafts);
  score.loss = sum / static_cast<double>(score.logprobs.size());
  score.perplexity = std::exp(score.loss);
  return score;
}

int64_t Engine::context() const { return impl_->context; }
int64_t Engine::vocab() const { return impl_->transformer.config().vocab; }
int Engine::threads() const { return impl_->pool.threads(); }
double Engine::load_ms() const { return impl_->load_ms; }

std::string Engine::description() const {
  const ModelConfig& c = impl_->transformer.config();
  std::ostringstream text;
  text << c.family << ", " << c.layers << " layers, hidden " << c.hidden << ", vocabulary " << c.vocab << ", "
       << (impl_->transformer.weights().bytes() >> 20) << " MiB of weights";
  return text.str();
}

}  // namespace cambium
