#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "decode/drafter.h"
#include "decode/sampler.h"
#include "decode/verify.h"
#include "model/transformer.h"

namespace cambium {

// A sequence in the cache with the tokens that its committed slots hold (after `prefix` slots that a graft fills).
struct DecodeState {
  int sequence = -1;
  std::vector<int32_t> committed;
  std::vector<Graft*> grafts;  // act on every row of the sequence
  int64_t prefix = 0;          // slots that they fill before the first token

  // Another conversation: the cache forgets the tokens.
  void Restart(Transformer& transformer, KvCache& kv, std::vector<Graft*> new_grafts = {});
};

// Counters of a generation; names follow vLLM's.
struct DraftCounters {
  int64_t num_drafts = 0, num_draft_tokens = 0, num_accepted_tokens = 0;
  std::vector<int64_t> num_accepted_tokens_per_pos;
  int64_t passes = 0;
  double draft_ms = 0, verify_ms = 0;
};

// One token of a generation, as it is emitted.
struct Emitted {
  int32_t token;
  int16_t drafter = -1;  // which drafter proposed it; -1: drawn without, or against, a draft
  bool corrected = false;  // a draft proposed other tokens here
};

struct DecodeRequest {
  std::vector<int32_t> prompt;
  int64_t max_tokens = 0;
  int64_t context = 0;  // most slots the sequence may take
  Compute compute = Compute::kInt8;
  int64_t prefill_chunk = 512;
  int64_t max_rows = 64;  // rows of a verifying pass
  VerifyRule verify;
  std::function<bool(int32_t token)> is_end;
  std::function<void(int32_t root, const Draft& draft, const Verdict& verdict)> on_verified;  // may be empty
  std::function<bool(const Emitted&)> on_token;  // false stops; not called for end tokens
};

enum class StopReason { kEnd, kLength, kCancelled };

struct DecodeResult {
  std::vector<int32_t> tokens;  // without the end token
  StopReason reason = StopReason::kLength;
  double prompt_ms = 0, decode_ms = 0;
  int64_t prompt_tokens = 0;  // that were computed, not reused
  int64_t decode_tokens = 0;  // drawn after the first
  std::vector<double> pass_ms;  // of every pass after the prompt's
  DraftCounters counters;
};

// Prefill, then one loop: propose a tree (empty without a drafter), verify it in one pass, commit the accepted path.
// Keeps the cached beginning of the prompt that `state` already holds; carries the state's grafts. The prompt is not empty
// and fits the context behind the grafts' prefix.
DecodeResult Generate(Transformer& transformer, KvCache& kv, DecodeState& state, Sampler& sampler, Drafter* drafter,
                      const DecodeRequest& request);

}  // namespace cambium
