#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "decode/beams.h"
#include "decode/planner.h"
#include "decode/request.h"
#include "model/transformer.h"

namespace cambium {

struct SchedulerOptions {
  Compute compute = Compute::kInt8;
  int64_t parallel = 16;       // sequences under way
  int64_t prefill_rows = 512;  // of a pass in which nobody decodes
  // While somebody decodes, rows of prompts are added up to this many times the pass of one row, or twice the pass
  // without them. Infinite: as where nobody decodes.
  double prefill_stretch = 3.0;
  VerifyCurve curve;  // what is known of passes, such as from an earlier run
  int64_t logit_floats = int64_t{64} << 20;  // most values that one pass's logits hold
};

struct Sequence;

// Serves many requests by passes that they share: each Step runs one pass over a row of every sequence that decodes,
// the drafts behind them, and rows of prompts. What a request is answered with depends on the request alone, never on
// its company (law 2, law 7): the same ids and log-probabilities, bit for bit, as in a scheduler of its own.
//
// Not thread-safe. The transformer, the cache and what requests name outlive the scheduler.
class Scheduler {
 public:
  using Id = int64_t;
  // memory: what decoders see of their sources, in a model with an encoder; layers as the decoder's.
  Scheduler(Transformer& transformer, KvCache& kv, const SchedulerOptions& options, KvCache* memory = nullptr);
  ~Scheduler();

  // Queues a request. kUsage for an empty prompt, a token outside the vocabulary, options out of range, a prompt that
  // does not fit the context; kResource where the cache could never hold it, with the numbers.
  Id Add(DecodeRequest request);
  // The same refusals alone. Safe to call from any thread.
  void Require(const DecodeRequest& request) const;
  // Ends a request before the next pass; its on_end is called there. False if it has ended.
  bool Cancel(Id id);
  // One pass, and what it brings; false when nothing is left to do. Throws only what a callback of no request can
  // answer for: an exception in a request's own part ends that request with kFailed.
  bool Step();

  // Milliseconds of the last of several passes over `rows`, each with its logits, behind the request's prompt: decoding
  // goes on for long, and the first passes behind a prompt find the weights further away (measured: 5.0 ms, the
  // twentieth 2.6).
  double TimePass(const DecodeRequest& request, std::span<const int32_t> rows);

  // The likeliest answers to one request, best first: beam search over rows that share the prompt's pages. Runs to its
  // end, between the steps of other requests. kUsage for options out of range, kResource where the cache is too small.
  std::vector<Beam> Search(const DecodeRequest& request, const BeamOptions& options, DecodeResult& result);

  struct Stats {
    int64_t waiting = 0, running = 0;
    int64_t steps = 0, rows = 0, prompt_rows = 0;  // since the start
    int64_t preemptions = 0;
    int64_t prefix_queries = 0, prefix_hits = 0;  // tokens of prompts that were looked for, and were known
    int64_t last_rows = 0;  // of the last pass
    double last_ms = 0;
  };
  const Stats& stats() const { return stats_; }
  const Planner& planner() const { return planner_; }
  const SchedulerOptions& options() const { return options_; }

 private:
  struct Part;  // a sequence's rows in the pass under way
  void RequireSource(const DecodeRequest& request) const;
  void Admit();
  void Reap();              // ends what was cancelled
  bool Place(Sequence& s);  // gives it a place in the cache, with what is known of it
  bool PlacePrefix(const Sequence& s);
  bool PlaceMemory(Sequence& s);
  // Puts tokens of the sequence, from `computed` on, into the pass as rows of `kv`, its place or a fork of that.
  void Append(const Sequence& s, Pass& pass, KvCache::Id kv, int64_t computed, std::span<const int32_t> tokens,
              std::span<const int32_t> parents = {}) const;
  std::vector<Part> PlanDecoding();
  void PlanPrefill(std::vector<Part>& parts);
  int64_t PrefillRows(int64_t decoding_rows) const;
  bool WaitsForKnown(const Sequence& s) const;
  bool GrowOrPreempt(Sequence& s, int64_t slots);
  void Preempt(Sequence& s);
  void RunPass(std::vector<Part>& parts);
  void Lay(Part& part, Pass& pass);
  void Settle(Part& part, const Pass& pass);
  void LogProbs(Part& part, Tensor logits);
  void Learn(int64_t decoding_rows, int64_t prompt_rows, double ms, int64_t drawn);
  void Show(const Part& part, const Pass& pass);
  bool Tell(Part& part, const Pass& pass);
  void Finish(Sequence& s, StopReason reason, std::exception_ptr error = nullptr);
  void End(std::unique_ptr<Sequence> ended, StopReason reason, std::exception_ptr error);
  void Leave(Sequence& s);  // gives up its place; what was computed stays known
  std::vector<int32_t> SlotTokens(const Sequence& s, int64_t tokens) const;
  void Publish(Sequence& s, int64_t tokens, bool last);

  Transformer& transformer_;
  KvCache& kv_;
  KvCache* memory_;
  SchedulerOptions options_;
  Planner planner_;
  Stats stats_;
  Id next_id_ = 1;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;
  double prefill_ms_per_row_ = 0;  // smoothed; 0: not known yet
  double head_share_;              // a verified row's products over a prompt row's, which has none with the head
  int64_t warm_passes_ = 0;        // since one held rows of a prompt
  std::exception_ptr thrown_;      // by an on_end, until the step is over
};

// Runs the scheduler until the request has ended.
DecodeResult RunToEnd(Scheduler& scheduler, DecodeRequest request);

}  // namespace cambium
