#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "decode/scheduler.h"
#include "decode/sequence.h"

namespace cambium {

using Clock = Sequence::Clock;
inline double Millis(Clock::duration d) { return std::chrono::duration<double, std::milli>(d).count(); }

// A sequence's rows in the pass under way, and what came of them.
struct Scheduler::Part {
  Sequence* sequence;  // null once it has ended
  int64_t rows = 1;    // of the sequence's tokens, from `past` on
  Draft draft = {};    // behind the last of them
  int64_t past = 0;
  bool draws = false;    // the last token's row is among them, and another is wanted
  bool decoded = false;  // it decoded before this pass: no rows of a prompt
  bool shows = false;    // rows of the prompt, from `first_shown` on, to the request
  int64_t first_shown = 0;
  std::vector<int32_t> tokens = {}, parents = {};  // of the pass's rows
  int64_t begin = 0;                               // the first of them in the pass
  int64_t first_logit = -1;                        // its first row among the pass's logits; -1: none
  int64_t logit_row = 0;                           // which of its rows that is
  Verdict verdict = {};
  std::vector<float> logprobs = {};  // of the verdict's tokens, where asked for
  std::vector<std::vector<TokenLogprob>> top = {};
};

}  // namespace cambium
