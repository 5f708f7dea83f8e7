#pragma once

#include <functional>
#include <limits>
#include <vector>

#include "decode/sampler.h"
#include "model/transformer.h"

namespace cambium {

struct BatchRequest {
  std::vector<std::vector<int32_t>> prompts;  // none is empty
  std::vector<Graft*> grafts;                 // act on every row
  SamplingOptions sampling;                   // of every answer, with one seed
  int64_t tokens = std::numeric_limits<int64_t>::max();  // as Sampler takes it
  int64_t max_tokens = 0;                     // of an answer, with its end token
  int64_t context = 0;                        // most tokens of a prompt and its answer
  int64_t width = 32;                         // answers under way in one pass
  int64_t prefill_rows = 512;                 // no further prompt joins a pass of so many rows
  Compute compute = Compute::kInt8;
  std::function<bool(int32_t token)> is_end;
  // In the order in which they end. tokens: with the end token, if the answer came to it.
  std::function<void(size_t prompt, const std::vector<int32_t>& tokens)> on_answer;
};

// Answers many prompts side by side: each pass holds a row of every answer under way, and the prompts that take the
// places of those that ended. The ids are those of Generate, one prompt at a time (law 2).
void GenerateBatch(Transformer& transformer, const BatchRequest& request);

}  // namespace cambium
