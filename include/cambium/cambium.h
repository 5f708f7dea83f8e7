#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cambium/error.h"

namespace cambium {

// How a model is loaded.
struct EngineOptions {
  int threads = 0;          // 0 = every core this process may use
  int64_t context = 0;      // slots of the KV cache; 0 = the model's own, at most 4096 unless asked for
  bool exact = false;       // fp32 activations and KV instead of int8 and f16
  std::string kv_type;      // "f16", "f32" or "" for the default of the mode
};

// How tokens are drawn; the defaults are llama.cpp's. temperature 0 is greedy.
struct SamplingOptions {
  float temperature = 0.8f;
  int top_k = 40;               // 0 = off
  float top_p = 0.95f;          // 1 = off
  float min_p = 0.05f;          // 0 = off
  float repeat_penalty = 1.0f;  // 1 = off
  int repeat_last_n = 64;
  std::map<int32_t, float> logit_bias;
  uint64_t seed = 0;
};

struct GenerateOptions {
  SamplingOptions sampling;
  int64_t max_tokens = -1;            // -1 = until an end token or the end of the context
  std::vector<std::string> stop;      // the text ends before the first of these
  bool ignore_end = false;            // go on past end-of-generation tokens
  std::vector<std::string> grafts;    // "PATH" or "PATH=SCALE" of adapters that act on this request; they stay loaded
  std::vector<std::string> drafters;  // NAME[:options]; empty = "auto"; {"none"} = plain decoding
  int64_t draft_rows = 64;            // most rows of a verifying pass, 1 to 1024
  std::string verify = "match";       // or "rejection", "typical": docs/speculative-decoding.md
};

struct Timings {
  double load_ms = 0;
  int64_t prompt_tokens = 0;
  double prompt_ms = 0;
  int64_t decode_tokens = 0;
  double decode_ms = 0;
  std::vector<double> pass_ms;  // of every pass after the prompt's
};

// How speculation went; counters as vLLM names them.
struct DraftReport {
  int64_t num_drafts = 0, num_draft_tokens = 0, num_accepted_tokens = 0;
  std::vector<int64_t> num_accepted_tokens_per_pos;
  int64_t passes = 0;                 // of the target after the prompt
  double draft_ms = 0, verify_ms = 0;
  double plain_ms = 0;                // of a pass over one row, measured in the same run where one was run
  std::vector<std::string> drafters;  // by index, as in Generation::origins
};

struct Generation {
  static constexpr int16_t kPlain = -1, kCorrected = -2;
  std::string text;
  std::vector<int32_t> ids;
  std::vector<int16_t> origins;  // per id: the drafter that proposed it, kPlain, or kCorrected against a draft
  DraftReport draft;
  std::string finish_reason;  // "stop" (end token or stop string), "length", "cancelled"
  Timings timings;
};

struct Score {
  std::vector<int32_t> ids;
  std::vector<double> logprobs;  // one per id but the first: log p(ids[i + 1] | ids[0..i])
  double loss = 0;               // mean negative log-likelihood, nats
  double perplexity = 0;
};

struct Message {
  std::string role, content;
};

// A loaded model. One call at a time; every call may throw Error.
//
// The first file that is mapped installs a handler of SIGBUS for the whole process, which makes a file that is truncated
// while it is read an Error. Faults at other addresses go to the handler that was there before. A host with a handler of
// its own (a JVM, Python's faulthandler) installs it first, or passes on what it does not know. Nothing else of the
// process is changed: no signal but that one, no locale, no umask, no environment.
class Engine {
 public:
  // model: a path (.gguf file or HF directory), a name in the cache, or an alias such as "smollm2".
  static Engine Load(const std::string& model, const EngineOptions& options = {});
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;
  ~Engine();

  // special: parse special tokens in the text; otherwise they stay plain text. BOS is added if the model wants it.
  std::vector<int32_t> Tokenize(std::string_view text, bool special = false, bool add_bos = true) const;
  std::string Detokenize(std::span<const int32_t> ids) const;
  std::string Piece(int32_t id) const;
  // The model's chat template over the messages.
  std::string ApplyTemplate(std::span<const Message> messages, bool add_generation_prompt = true) const;
  // The same as ids: the template's special tokens are parsed, those spelled out in a message's content stay plain text.
  std::vector<int32_t> TokenizeChat(std::span<const Message> messages, bool add_generation_prompt = true) const;

  // Streams: on_text gets whole code points as they come; returning false cancels.
  Generation Generate(std::span<const int32_t> prompt, const GenerateOptions& options,
                      const std::function<bool(std::string_view)>& on_text = nullptr);
  Score ScoreIds(std::span<const int32_t> ids, const std::vector<std::string>& grafts = {});
  // Logits [ids.size(), vocab] of every position, row by row.
  void ForEachLogits(std::span<const int32_t> ids, const std::function<void(int64_t row, std::span<const float>)>& use,
                     const std::vector<std::string>& grafts = {});

  int64_t context() const;
  int64_t vocab() const;
  int threads() const;
  double load_ms() const;
  std::string description() const;  // one line: family, parameters, storage

  struct Impl;
  Impl& impl() { return *impl_; }  // for this repository's own tools

 private:
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace cambium
