// What a request needs before it can be served: a cache, its grafts, its drafters.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <utility>

#include "drafters/drafters.h"
#include "engine/constraint_impl.h"
#include "engine/curve_file.h"
#include "engine/impl.h"
#include "grafts/grafts.h"
#include "model/heads.h"

namespace cambium {
namespace {

constexpr int64_t kDefaultContext = 4096;
constexpr int64_t kSpareRows = Engine::Impl::kMostRows;  // lie beyond the context
constexpr int64_t kPrefixSlots = 1024;                   // that grafts may take before the cache is made anew
constexpr size_t kMostDrafters = 32;                     // sets that are kept

DType KvDType(const EngineOptions& options) {
  if (options.kv_type == KvType::kDefault) return options.exact ? DType::kF32 : DType::kF16;
  if (options.kv_type == KvType::kQ8) return DType::kQ8_0;
  return options.kv_type == KvType::kF16 ? DType::kF16 : DType::kF32;
}

int64_t ContextLength(const ModelConfig& config, int64_t asked) {
  if (asked < 0) Fail(ErrorCode::kUsage, "context is ", asked, ", expected a positive number");
  if (asked > config.context) {
    Fail(ErrorCode::kUsage, "context ", asked, " is beyond the model's ", config.context, " positions");
  }
  return asked > 0 ? asked : std::min(config.context, kDefaultContext);
}

VerifyRule RuleOf(const DraftOptions& options) {
  VerifyRule rule;
  if (options.verify == DraftOptions::Verify::kRejection) rule.kind = VerifyRule::kRejection;
  if (options.verify == DraftOptions::Verify::kTypical) rule.kind = VerifyRule::kTypical;
  for (const auto& [name, value] : {std::pair("epsilon", options.epsilon), std::pair("delta", options.delta)}) {
    if (!(value > 0 && value <= 1)) Fail(ErrorCode::kUsage, name, " is ", value, ", expected above 0, at most 1");
  }
  rule.epsilon = options.epsilon;
  rule.delta = options.delta;
  return rule;
}

bool SamePath(const std::string& a, const std::string& b) {
  std::error_code unknown;
  return a == b || std::filesystem::equivalent(a, b, unknown);
}

uint64_t SaltOf(const std::string& salt) {
  if (salt.empty()) return 0;
  uint64_t hash = 0xCBF29CE484222325u;  // FNV-1a
  for (const unsigned char byte : salt) hash = (hash ^ byte) * 0x100000001B3u;
  return hash | 1;
}

// An encoder reads the prompt; the decoder's own begins with its start token alone.
void TakeSource(const ModelConfig& config, const Request& request, DecodeRequest& decode) {
  const auto refuse = [](const char* name) {
    Fail(ErrorCode::kUsage, name, ": not supported for a model with an encoder");
  };
  if (request.prompt_logprobs >= 0) refuse("prompt_logprobs");
  if (request.embed) refuse("embed");
  for (const std::string& drafter : request.drafting.drafters) {
    if (drafter != "none") Fail(ErrorCode::kUsage, "draft is ", drafter, ": a model with an encoder drafts nothing");
  }
  if (request.max_tokens == 0)
    Fail(ErrorCode::kUsage, "max_tokens is 0: a model with an encoder answers, expected 1 or more");
  decode.source = std::exchange(decode.prompt, {config.decoder_start});
  decode.forced_first = config.forced_first;
  decode.forced_last = config.forced_last;
}

// What a beam search does not do, by name.
void CheckSearch(const Request& request, const std::vector<std::string>& drafters) {
  const SamplingOptions& s = request.sampling;
  const SamplingOptions usual;
  const auto off = [](float value, float usual, float off) { return value == usual || value == off; };
  const std::pair<const char*, bool> fits[] = {
      {"temperature", off(s.temperature, usual.temperature, 0)},
      {"top_k", s.top_k == usual.top_k || s.top_k == 0},
      {"top_p", off(s.top_p, usual.top_p, 1)},
      {"min_p", off(s.min_p, usual.min_p, 0)},
      {"draft", drafters.empty() || drafters == std::vector<std::string>{"none"}},
      {"stop", request.stop.empty()},
      {"logprobs", request.top_logprobs < 0},
      {"prompt_logprobs", request.prompt_logprobs < 0},
      {"embed", !request.embed},
      {"trace", !request.trace},
      {"constraint", !request.constraint},
      {"filter", request.filter == nullptr},
      {"max_tokens", request.max_tokens != 0},
  };
  for (const auto& [name, good] : fits) {
    if (!good) Fail(ErrorCode::kUsage, name, ": a beam search of ", request.beams.count, " cannot have it");
  }
}

// Where a constraint binds, what it forces is drafted first.
std::vector<std::string> SpecsOf(const Request& request) {
  std::vector<std::string> specs = request.drafting.drafters;
  const auto grammar = [](const std::string& spec) { return spec == "grammar" || spec.starts_with("grammar:"); };
  const bool asked = std::ranges::any_of(specs, grammar);
  if (asked && !request.constraint)
    Fail(ErrorCode::kUsage, "--draft grammar: the request has no constraint to draft from");
  if (asked || !request.constraint) return specs;
  if (specs.empty()) specs = {"auto"};
  if (std::ranges::find(specs, "auto") != specs.end()) specs.insert(specs.begin(), "grammar");
  return specs;
}

}  // namespace

EngineMark::EngineMark(Model::Impl& model) : model_(model) {
  const std::lock_guard lock(model.users);
  if (model.trained_whole)
    Fail(ErrorCode::kUsage, model.path, ": the model is being trained whole; end the training first");
  ++model.engines;
}

EngineMark::~EngineMark() {
  const std::lock_guard lock(model_.users);
  --model_.engines;
}

Engine::Impl::Active::Active(RequestId number, const Request& request)
    : id(number), filter(request.stop), min_tokens(request.min_tokens) {
  if (request.loop_guard && !request.ignore_end && !request.constraint) guard.emplace();
}

Engine::Impl::Impl(const Model& on, const EngineOptions& wanted)
    : model(on),
      options(wanted),
      m(*model.shared()),
      mark(m),
      compute(options.exact ? Compute::kF32 : Compute::kInt8),
      context(ContextLength(m.transformer.config(), options.context)) {
  if (options.parallel < 1 || options.parallel > 4096) {
    Fail(ErrorCode::kUsage, "parallel is ", options.parallel, ", expected 1 to 4096");
  }
  if (m.transformer.config().has_encoder() && options.kv_type == KvType::kQ8) {
    Fail(ErrorCode::kUsage, "kv_type is q8: a model with an encoder keeps f16 or f32");
  }
  if (options.cache_tokens < 0) Fail(ErrorCode::kUsage, "cache_tokens is ", options.cache_tokens);
  const int64_t several = options.parallel * std::min(context, kDefaultContext / 2);
  const int64_t enough = (options.parallel == 1 ? context : std::max(context, several)) + kSpareRows + kPrefixSlots;
  MakeCache(options.cache_tokens > 0 ? options.cache_tokens : enough);
}

Engine::Impl::~Impl() {
  if (scheduler) CurveFile(m.info, compute, KvDType(options)).Write(scheduler->planner().curve());
}

void Engine::Impl::MakeCache(int64_t slots) {
  SchedulerOptions scheduling;
  scheduling.curve = scheduler ? scheduler->planner().curve() : CurveFile(m.info, compute, KvDType(options)).Read();
  scheduler.reset();
  drafters.clear();
  kv = std::make_unique<KvCache>(m.transformer.config(), KvDType(options), slots);
  scheduling.compute = compute;
  scheduling.parallel = options.parallel;
  if (options.batch) scheduling.prefill_stretch = std::numeric_limits<double>::infinity();
  if (m.transformer.config().has_encoder()) {
    const int64_t sources = options.parallel * m.transformer.config().context + kPrefixSlots;
    memory = std::make_unique<KvCache>(m.transformer.config(), KvDType(options), sources);
  }
  scheduler = std::make_unique<Scheduler>(m.transformer, *kv, scheduling, memory.get());
}

void Engine::Impl::MakeRoom(int64_t slots) {
  const std::lock_guard lock(setup);
  if (slots <= kv->max_slots() || options.cache_tokens > 0) return;  // the scheduler refuses it, with the numbers
  {
    const std::lock_guard reading(mail);
    if (!active.empty()) return;
  }
  const std::lock_guard computing(m.compute);
  MakeCache(slots + kSpareRows);
}

std::shared_ptr<const GraftSet> Engine::Impl::Grafts(
    const std::vector<AdapterUse>& adapters, std::vector<std::shared_ptr<Adapter::Impl::Scaled>>& carriers) const {
  if (adapters.empty()) return nullptr;
  struct Owner {
    std::vector<std::shared_ptr<Adapter::Impl::Scaled>> adapters;
  };
  auto owner = std::make_shared<Owner>();
  auto set = std::make_shared<GraftSet>();
  std::vector<std::string> names;
  uint64_t key = 0;
  for (const AdapterUse& use : adapters) {
    Adapter::Impl& adapter = *use.adapter.shared();
    const auto same = [&](const AdapterUse& other) {
      return &other < &use && SamePath(other.adapter.path(), adapter.path);
    };
    if (std::ranges::any_of(adapters, same)) {
      Fail(ErrorCode::kUsage, "--graft ", adapter.path, ": given twice; give it once, with the sum of the scales");
    }
    if (adapter.model.get() != &m) {
      Fail(ErrorCode::kUsage, adapter.path, ": the adapter was loaded onto another model than this engine's");
    }
    if (!std::isfinite(use.scale)) Fail(ErrorCode::kUsage, adapter.path, ": the scale is ", use.scale);
    const std::shared_ptr<Adapter::Impl::Scaled> scaled = adapter.At(use.scale);
    bool carries = false;
    for (const auto& part : scaled->parts) {
      set->grafts.push_back(part.get());
      names.push_back(adapter.path);
      carries = carries || part->heads() != nullptr;
    }
    if (carries) carriers.push_back(scaled);
    owner->adapters.push_back(scaled);
    key = MixKey(key, scaled->key);
  }
  CheckStack(names, set->grafts, m.transformer.config());
  set->key = key;
  set->owner = std::move(owner);
  return set;
}

std::shared_ptr<DrafterSet> Engine::Impl::DraftersFor(
    const std::vector<std::string>& specs, const std::vector<std::shared_ptr<Adapter::Impl::Scaled>>& carriers) {
  const std::lock_guard lock(setup);
  const auto found = std::ranges::find_if(
      drafters, [&](const Drafters& known) { return known.specs == specs && known.carriers == carriers; });
  if (found != drafters.end()) {
    std::rotate(found, found + 1, drafters.end());  // the last used stands last
    return drafters.back().set;
  }
  const std::lock_guard computing(m.compute);
  std::vector<Graft*> grafts;
  for (const auto& scaled : carriers) {
    for (const auto& part : scaled->parts) grafts.push_back(part.get());
    if (scaled->frozen || compute != Compute::kInt8) continue;
    for (const auto& part : scaled->parts) {
      if (part->heads() != nullptr) part->heads()->Freeze();
    }
    scaled->frozen = true;
  }
  std::vector<std::unique_ptr<Drafter>> members =
      MakeDrafters(specs, {m.transformer, *kv, m.tokenizer, compute, context, grafts});
  std::shared_ptr<DrafterSet> set;
  if (!members.empty()) set = std::make_shared<DrafterSet>(std::move(members));
  while (drafters.size() >= kMostDrafters) {
    const auto unused = std::ranges::find_if(drafters, [](const Drafters& d) { return d.set.use_count() <= 1; });
    if (unused == drafters.end()) break;
    drafters.erase(unused);
  }
  drafters.push_back({specs, carriers, set});
  return set;
}

DecodeRequest Engine::Impl::ToDecode(const Request& request) {
  DecodeRequest decode;
  decode.prompt = request.prompt;
  if (m.transformer.config().has_encoder()) TakeSource(m.transformer.config(), request, decode);
  const bool searches = request.beams.count != 1;
  if (searches) CheckSearch(request, request.drafting.drafters);
  std::vector<std::shared_ptr<Adapter::Impl::Scaled>> carriers;
  decode.grafts = Grafts(request.adapters, carriers);
  decode.sampling = request.sampling;
  decode.vocabulary = m.tokenizer.text_size();
  decode.filter = request.filter;
  if (request.constraint) {
    if (request.constraint->shared()->model.get() != &m) {
      Fail(ErrorCode::kUsage, "the constraint was compiled for another model than this engine's");
    }
    for (const auto& [name, given] :
         {std::pair("ignore_end", request.ignore_end), std::pair("min_tokens", request.min_tokens > 0)}) {
      if (given) Fail(ErrorCode::kUsage, name, ": under a constraint the answer ends where it must");
    }
    decode.constraint = MatcherOf(*request.constraint, decode.prompt.size());
  }
  decode.verify = RuleOf(request.drafting);
  if (request.drafting.max_rows < 1 || request.drafting.max_rows > kMostRows) {
    Fail(ErrorCode::kUsage, "draft_rows is ", request.drafting.max_rows, ", expected 1 to ", kMostRows);
  }
  for (const auto& [name, value] :
       {std::pair("top_logprobs", request.top_logprobs), std::pair("prompt_logprobs", request.prompt_logprobs)}) {
    if (value < -1 || value > 1024) Fail(ErrorCode::kUsage, name, " is ", value, ", expected -1 to 1024");
  }
  decode.max_rows = request.drafting.max_rows;
  decode.max_tokens = request.embed ? 0 : request.max_tokens;
  decode.min_tokens = request.min_tokens;
  decode.top_logprobs = request.top_logprobs;
  decode.salt = SaltOf(request.cache_salt);
  const int64_t prefix = decode.grafts != nullptr ? decode.grafts->slots_before() : 0;
  const int64_t positions = m.transformer.config().context;
  decode.context = std::min(context, positions - prefix);
  if (decode.context < 1) {
    Fail(ErrorCode::kUsage, "the grafts' prefix of ", prefix, " leaves nothing of the model's ", positions,
         " positions");
  }
  int64_t slots = prefix + decode.context;
  if (searches) {  // each hypothesis has the answer to itself, and a page that the prompt's end shares
    const int64_t answer = decode.max_tokens < 0 ? decode.context : std::min(decode.context, decode.max_tokens);
    slots += std::clamp<int64_t>(request.beams.count, 0, BeamSearch::kMostBeams) * 2 * (answer + KvCache::kPageSlots);
  }
  MakeRoom(slots);
  const bool drafts = decode.max_tokens != 0 && !searches && !m.transformer.config().has_encoder();
  if (drafts) decode.drafters = DraftersFor(SpecsOf(request), carriers);
  if (!request.ignore_end) {
    decode.end_tokens = m.tokenizer.end_of_generation();
  }
  return decode;
}

}  // namespace cambium
