#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cambium/constraint.h"
#include "cambium/error.h"
#include "cambium/model.h"

namespace cambium {

enum class KvType { kDefault, kF16, kF32, kQ8 };  // kDefault: f16, and f32 where the engine is exact

struct EngineOptions {
  int threads = 0;      // for Engine::Load: 0 = every core this process may use
  int64_t context = 0;  // most tokens of a prompt and its answer; 0 = the model's own, at most 4096
  bool exact = false;   // fp32 activations and KV cache instead of int8 and f16
  KvType kv_type = KvType::kDefault;
  int64_t parallel = 16;     // requests under way at once; more wait
  // Nobody reads along: prompts are read in whole passes, which gets more done and makes answers under way wait.
  bool batch = false;
  int64_t cache_tokens = 0;  // slots of the KV cache, for requests under way and for what is remembered; 0 = enough
};

// How tokens are drawn; the defaults are llama.cpp's. temperature 0 is greedy.
struct SamplingOptions {
  float temperature = 0.8f;
  int top_k = 40;               // 0 = off
  float top_p = 0.95f;          // 1 = off
  float min_p = 0.05f;          // 0 = off
  float repeat_penalty = 1.0f;  // 1 = off
  int repeat_last_n = 64;
  // Taken from the logit of a token that the answer holds: once, and for each time; 0 = off.
  float presence_penalty = 0, frequency_penalty = 0;
  std::map<int32_t, float> logit_bias;
  int no_repeat_ngram = 0;  // no run of so many tokens comes twice, the prompt's counted; 0 = off
  uint64_t seed = 0;
};

// Beam search, as transformers' `generate(num_beams=...)` does it: the likeliest answers instead of drawn ones.
struct BeamOptions {
  enum class Stop {
    kHeuristic,  // when the best running hypothesis, as long as it is now, is no better than the worst ended one
    kEarly,      // as soon as `count` hypotheses have ended
    kNever,      // as kHeuristic, with the longest answer's length where the length penalty favours length
  };
  int64_t count = 1;         // hypotheses; 1 = no beam search
  float length_penalty = 1;  // a hypothesis of n tokens scores its log-probability / n ^ length_penalty
  Stop stop = Stop::kHeuristic;
};

// Changes the logits [vocab] of the token behind `text` (prompt and answer so far) before it is drawn, such as by -inf
// where a grammar forbids a token. Called for every row that a token may be drawn from, drafted ones too, on the thread
// that steps; must depend on `text` alone.
class LogitsFilter {
 public:
  virtual ~LogitsFilter() = default;
  virtual void Apply(std::span<const int32_t> text, std::span<float> logits) = 0;
};

// Who drafts, and how drafts are judged (docs/speculative-decoding.md). Drafts never change the answer with kMatch.
struct DraftOptions {
  enum class Verify {
    kMatch,      // the tokens of plain decoding
    kRejection,  // the distribution, not the tokens
    kTypical,    // neither
  };
  std::vector<std::string> drafters;  // NAME[:options]; empty = "auto"; {"none"} = plain decoding
  int64_t max_rows = 64;              // of a verifying pass, 1 to 1024
  Verify verify = Verify::kMatch;
  double epsilon = 0.09, delta = 0.3;  // of kTypical
};

struct AdapterUse {
  Adapter adapter;
  float scale = 1;
};

struct Request {
  std::vector<int32_t> prompt;       // token ids, not empty
  std::vector<AdapterUse> adapters;  // act on this request alone
  SamplingOptions sampling;
  DraftOptions drafting;
  BeamOptions beams;  // of Engine::Generate alone; neither drafts nor draws, and refuses options that would
  int64_t max_tokens = -1;        // -1 = until an end token or the end of the context; 0 = read the prompt alone
  int64_t min_tokens = 0;         // before so many, end tokens are not drawn and stop strings not looked for
  std::vector<std::string> stop;  // the text ends before the first of these
  bool ignore_end = false;        // go on past end tokens
  bool loop_guard = false;   // end an answer that repeats itself for ever; not with ignore_end or a constraint
  int top_logprobs = -1;     // likeliest tokens to report beside the drawn one, 0 to 1024; -1 = no log-probabilities
  int prompt_logprobs = -1;  // the same of the prompt's own tokens (Generation::prompt_logprobs)
  bool embed = false;        // draw nothing; Generation::embedding
  bool trace = false;        // report what each pass verified (Event::Kind::kPass)
  bool progress = false;     // report how far the prompt is read (Event::Kind::kPrompt)
  std::string cache_salt;    // what is remembered is shared among requests of one salt
  // What the answer's text must be. End tokens are drawn where it may end, and nothing else where it must; not with
  // ignore_end or min_tokens. Bias and penalties act on what it leaves.
  std::optional<Constraint> constraint;
  std::shared_ptr<LogitsFilter> filter;
};

using RequestId = int64_t;

struct TokenLogprob {
  int32_t id;
  float logprob;  // natural; of the model, before bias, penalties and temperature
};

enum class FinishReason {
  kStop,    // an end token or a stop string
  kLength,  // max_tokens or the context
  kCancelled,
  kFailed,      // Event::error says why
  kRepetition,  // Request::loop_guard
};
std::string_view Name(FinishReason reason);  // "stop", "length", "cancelled", "failed", "repetition"

struct Timings {
  double load_ms = 0;         // of the model
  double queue_ms = 0;        // until the first pass
  int64_t preemptions = 0;    // times that it was sent away for want of cache, and computed again
  int64_t prompt_tokens = 0;  // that were computed
  int64_t cached_tokens = 0;  // of the prompt, that were remembered
  double prompt_ms = 0;
  int64_t decode_tokens = 0;  // drawn after the first
  double decode_ms = 0;
  std::vector<double> pass_ms;  // of every pass after the prompt's
};

// What came of one drafter's tokens.
struct DraftedBy {
  int64_t drafted = 0, accepted = 0;
};

// How speculation went; counters as vLLM names them.
struct DraftReport {
  int64_t num_drafts = 0, num_draft_tokens = 0, num_accepted_tokens = 0;
  std::vector<int64_t> num_accepted_tokens_per_pos;
  int64_t passes = 0;  // of the target after the prompt
  double draft_ms = 0, verify_ms = 0;
  double plain_ms = 0;                // of a pass over one row, measured in the same run where one was run
  std::vector<std::string> drafters;  // by index, as origins name them
  std::vector<DraftedBy> by_drafter;  // likewise
};

// An answer of a beam search.
struct Hypothesis {
  std::string text;
  std::vector<int32_t> ids;  // without the end token
  double score = 0;
  bool ended = false;  // with an end token; else it was as long as it may be
};

struct Generation {
  static constexpr int16_t kPlain = -1, kCorrected = -2;
  std::string text;
  std::vector<int32_t> ids;
  std::vector<int16_t> origins;        // per id: the drafter that proposed it, kPlain, or kCorrected against a draft
  std::vector<TokenLogprob> logprobs;  // per id, where asked for
  std::vector<std::vector<TokenLogprob>> top;  // per id: the likeliest tokens there, highest first
  // Of the prompt's ids but the first, where asked for.
  std::vector<TokenLogprob> prompt_logprobs;
  std::vector<std::vector<TokenLogprob>> prompt_top;
  std::vector<float> embedding;  // [hidden]: mean of the final norm's output over the prompt, of length 1
  std::vector<Hypothesis> beams;  // of a beam search, best first; the first is the answer
  DraftReport draft;
  FinishReason finish_reason = FinishReason::kLength;
  std::string stopped_by;  // the stop string or the end token's piece, with kStop
  Timings timings;
};

// What a pass made of a draft: a tree below `root`, parents first.
struct DraftTrace {
  struct Node {
    int32_t id, parent;  // -1: a child of the root
    float probability;   // the drafter's belief
    int16_t drafter;
    bool accepted;
  };
  int32_t root;
  std::vector<Node> nodes;
  int32_t drawn;  // behind the last accepted one
};

// How far a prompt has been read.
struct PromptProgress {
  int64_t total, cached, done;  // tokens; those that were remembered are done
  double ms;                    // since its first pass
  // Of the ids but the first, as Generation has them; empty until the prompt is read, and where not asked for.
  std::span<const TokenLogprob> logprobs;
  std::span<const std::vector<TokenLogprob>> top;
};

// What happened to a request. Spans and pointers live as long as the call.
struct Event {
  enum class Kind { kToken, kPass, kFinished, kPrompt };
  RequestId request = 0;
  Kind kind = Kind::kToken;
  int32_t id = -1;        // kToken
  std::string_view text;  // whole code points that may be shown now: behind the token, and what was held back
  int16_t origin = Generation::kPlain;
  const TokenLogprob* logprob = nullptr;
  std::span<const TokenLogprob> top;
  const DraftTrace* pass = nullptr;        // kPass
  const PromptProgress* prompt = nullptr;  // kPrompt
  const Generation* generation = nullptr;  // kFinished: the whole answer
  std::exception_ptr error;                // kFinished with kFailed
};
using Sink = std::function<void(const Event&)>;

struct Score {
  std::vector<int32_t> ids;
  std::vector<double> logprobs;  // one per id but the first: log p(ids[i + 1] | ids[0..i])
  double loss = 0;               // mean negative log-likelihood, nats
  double perplexity = 0;
};

struct EngineStats {
  int64_t waiting = 0, running = 0;
  int64_t steps = 0, rows = 0, prompt_rows = 0, preemptions = 0;  // since the start
  int64_t last_rows = 0;                                          // of the last pass
  double last_ms = 0;
  int64_t cache_pages = 0, cache_used = 0, cache_shared = 0, cache_remembered = 0, cache_evicted = 0;
  int64_t prefix_queries = 0, prefix_hits = 0;  // tokens of prompts that were looked for, and found, in the cache
};

struct PassCost {
  int64_t rows = 0;
  double ms = 0;
};

// Serves many requests on one model by passes that they share. An answer depends on its request alone: it is the same,
// token for token, in any company.
//
// Submit, Cancel and the model's members may be called from any thread; Step, Generate and the rest from one at a time.
class Engine {
 public:
  explicit Engine(const Model& model, const EngineOptions& options = {});
  // Model::Load and an engine of its own.
  static Engine Load(const std::string& model, const EngineOptions& options = {});
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;
  ~Engine();

  const Model& model() const;
  int64_t context() const;  // tokens of a prompt and its answer

  // Queues a request; kUsage, kData or kResource where it can never be answered.
  RequestId Submit(Request request);
  // Ends a request before the next pass; nothing happens where it has ended.
  void Cancel(RequestId request);
  // One pass for every request under way; false when none is left. An exception that `sink` throws, or that a request's
  // own part of the pass meets, ends that request alone (kFailed).
  bool Step(const Sink& sink);

  // Submit, then Step until the answer is there; throws what it failed with. Other requests go on meanwhile; their
  // events wait for the next Step.
  Generation Generate(Request request, const Sink& sink = nullptr);
  Score ScoreIds(std::span<const int32_t> ids, const std::vector<AdapterUse>& adapters = {});
  // Logits [ids.size(), vocab] of every position, row by row.
  void ForEachLogits(std::span<const int32_t> ids, const std::function<void(int64_t row, std::span<const float>)>& use,
                     const std::vector<AdapterUse>& adapters = {});

  // Writes a prefix (docs/grafts.md) that acts as the ids before every text.
  void CompilePrefix(std::span<const int32_t> ids, const std::string& directory);
  // Forgets what requests that have ended left in the cache.
  void ForgetCached();
  // Milliseconds of one pass over `rows` rows, each with its logits, behind `depth` tokens: what verifying a draft
  // costs.
  double TimePass(int64_t depth, int64_t rows, const std::vector<AdapterUse>& adapters = {});
  EngineStats stats() const;
  // What a verifying pass costs, by its rows, as the planner of drafts has learned it; empty before any was measured.
  std::vector<PassCost> PassCosts() const;

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace cambium
