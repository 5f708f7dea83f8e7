#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "decode/planner.h"
#include "decode/request.h"
#include "decode/sampler.h"

namespace cambium {

// All state of one request under way. It owns the tokens; everybody else looks at them.
struct Sequence {
  using Clock = std::chrono::steady_clock;

  Sequence(int64_t id, DecodeRequest request);

  int64_t id;
  DecodeRequest request;
  Sampler sampler;
  std::vector<int32_t> tokens;  // the prompt and all that was drawn
  int64_t prompt;               // tokens of the prompt
  int64_t computed = 0;         // tokens with committed keys and values
  int64_t slots_before = 0;     // slots that grafts fill
  KvCache::Id kv = -1;          // its place in the cache; -1: none
  KvCache::Id memory = -1;      // of what the decoder sees of the request's source
  int64_t unshifted = 0;        // of slots_before: they move no position
  uint64_t key;                 // what the prefix index knows its pages by
  int64_t published = 0;        // tokens that the index was told of
  int64_t shown = 0;            // rows of the prompt that the request was shown: each once, however often computed
  bool shares_pages = true;
  bool cancelled = false;
  int64_t waited = 0;  // steps that its prompt was put off

  std::unique_ptr<DraftText> text;  // what the sessions look at
  DrafterSet::Drafting drafting;

  DecodeResult result;
  Clock::time_point added = Clock::now(), started, first;
  bool begun = false;   // has been in a pass
  int64_t emitted = 0;  // tokens drawn that were counted, an end token too

  int64_t drawn() const { return std::ssize(tokens) - prompt; }
  int64_t todo() const { return std::ssize(tokens) - computed; }  // rows until the next token is drawn
  bool decodes() const { return drawn() > 0 && todo() == 1 && kv >= 0; }
  int64_t LeftToDraw() const;
  std::span<Graft* const> grafts() const;
  // Counts a drawn token and shows it; false when it was the last, with the reason in the result.
  bool Emit(const Emitted& token);
  void Count(const Draft& draft, const Verdict& verdict);
};

}  // namespace cambium
