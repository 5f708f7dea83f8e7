#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "decode/drafter.h"
#include "decode/sampler.h"
#include "decode/token_constraint.h"
#include "decode/verify.h"
#include "model/graft.h"

namespace cambium {

class DrafterSet;

// Another part of what keys and values depend on; the order counts.
uint64_t MixKey(uint64_t key, uint64_t part);

// The grafts that act on every row of a request, in their order, and what owns them.
struct GraftSet {
  std::vector<Graft*> grafts;
  uint64_t key = 0;  // of no other set, scale or version: what the prefix index knows them by; 0 = the bare base
  std::shared_ptr<const void> owner;
  int64_t slots_before() const;     // that they fill before the text
  int64_t slots_unshifted() const;  // of them, behind which the text's positions begin at 0 all the same
};
// A set that shares its cache with none of another key.
std::shared_ptr<const GraftSet> GraftsOf(std::vector<Graft*> grafts, uint64_t key = 1);

// One token of a generation, as it is emitted.
struct Emitted {
  int32_t token;
  int16_t drafter = -1;    // which drafter proposed it; -1: drawn without, or against, a draft
  bool corrected = false;  // a draft proposed other tokens here
  bool has_logprob = false;
  float logprob = 0;                       // where log-probabilities are asked for
  std::span<const TokenLogprob> top = {};  // the likeliest tokens there, highest first
};

// Counters of a generation; names follow vLLM's.
struct DraftCounters {
  int64_t num_drafts = 0, num_draft_tokens = 0, num_accepted_tokens = 0;
  std::vector<int64_t> num_accepted_tokens_per_pos;
  int64_t passes = 0;
  double draft_ms = 0, verify_ms = 0;
  std::vector<DraftedBy> by_drafter;  // by the drafters' numbers
};

enum class StopReason {
  kEnd,        // an end token
  kLength,     // max_tokens or the context
  kStopped,    // on_token said so
  kCancelled,  // Scheduler::Cancel
  kFailed,     // see DecodeResult::error
};

struct DecodeResult {
  std::vector<int32_t> tokens;  // without the end token
  StopReason reason = StopReason::kLength;
  int32_t end_token = -1;    // which one, with kEnd
  std::exception_ptr error;  // with kFailed
  double queue_ms = 0;       // until the first pass
  double prompt_ms = 0, decode_ms = 0;
  int64_t prompt_tokens = 0;  // that were computed, not known
  int64_t cached_tokens = 0;  // of the prompt, that were known
  int64_t decode_tokens = 0;  // drawn after the first
  int64_t preemptions = 0;
  std::vector<double>
      pass_ms;  // of the last kMostPassTimes passes after the prompt's, waiting for others' rows included
  DraftCounters counters;

  static constexpr size_t kMostPassTimes = 4096;
};

// What the scheduler is asked for: to continue a prompt, or to read it alone (max_tokens 0).
struct DecodeRequest {
  std::vector<int32_t> prompt;
  std::vector<int32_t> source;  // what the encoder reads, in a model that has one
  std::shared_ptr<const GraftSet> grafts;  // null: the bare base
  SamplingOptions sampling;
  int64_t vocabulary = std::numeric_limits<int64_t>::max();  // tokens from here on are never drawn
  std::shared_ptr<TokenConstraint> constraint;               // null: none
  std::shared_ptr<LogitsFilter> filter;                      // null: none; sees what the constraint leaves
  VerifyRule verify;
  std::shared_ptr<DrafterSet> drafters;  // null: none
  int64_t max_rows = 64;                 // of this request in a verifying pass
  int64_t max_tokens = -1;               // -1: until an end token or the end of the context
  int64_t context = 0;                   // most tokens of prompt and answer
  int top_logprobs = -1;                 // likeliest tokens to report; 0: the drawn one alone; -1: nothing
  uint64_t salt = 0;                     // pages are shared among requests of one salt
  std::vector<int32_t> end_tokens;       // that end the text
  int64_t min_tokens = 0;                // drawn before one of them may be
  // The token that the answer must begin with, and the one that it must have at max_tokens; -1: any.
  int32_t forced_first = -1, forced_last = -1;

  // Where answers go, on the thread that steps. What one throws fails this request alone.
  std::function<bool(const Emitted&)> on_token;  // false stops; not called for end tokens
  // Of every token of the prompt, in order, each once: its logits, and the final norm's output there.
  std::function<void(int64_t row, std::span<const float> logits)> on_logits;
  std::function<void(int64_t row, std::span<const float> hidden)> on_hidden;
  // After each pass over rows of the prompt: how many of its tokens are done, how many of those were known, since when.
  std::function<void(int64_t done, int64_t known, double ms)> on_prompt;
  std::function<void(int32_t root, const Draft& draft, const Verdict& verdict)> on_verified;
  std::function<void(const DecodeResult&)> on_end;

  bool shows_rows() const { return on_logits || on_hidden; }  // then every row of the prompt is computed
  bool ends(int32_t token) const { return std::ranges::find(end_tokens, token) != end_tokens.end(); }
};

// Of what the encoder makes of the request's source: its tokens, the grafts, the salt.
uint64_t SourceKey(const DecodeRequest& request);

}  // namespace cambium
