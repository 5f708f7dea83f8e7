#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cambium/cambium.h"

namespace cambium::server {

// What the engine does now and did a moment ago, for GET /v1/engine. Safe from any thread.
class Watch {
 public:
  using Clock = std::chrono::steady_clock;
  using Key = std::pair<const void*, size_t>;  // an exchange and one of its answers

  struct Stream {
    std::string id, model;
    int64_t prompt_tokens = 0, max_tokens = -1;
    int64_t tokens = 0, drafted = 0;  // drawn so far; of these proposed by a drafter
    Clock::time_point arrived;
  };
  struct Pass {
    int64_t number = 0, rows = 0, prompt_rows = 0, running = 0;
    double ms = 0;
  };
  // Of all answers that have ended.
  struct Drafts {
    int64_t passes = 0, tokens = 0;     // behind the prompts
    double spent_ms = 0, plain_ms = 0;  // in those passes; that as many passes of one row would have taken
    std::map<std::string, DraftedBy> drafters;
  };

  void Began(Key key, Stream stream);
  void Drew(Key key, bool drafted);
  void Ended(Key key, const Generation& generation);
  void Stepped(const EngineStats& stats, const Engine& engine);  // on the thread that steps

  std::vector<Stream> Streams() const;            // in the order in which they came
  std::vector<Pass> Passes(int64_t after) const;  // those behind number `after`, of the last kPasses
  std::vector<PassCost> Costs() const;
  Drafts DraftsSoFar() const;

  static constexpr size_t kPasses = 240;

 private:
  mutable std::mutex mutex_;
  std::map<Key, Stream> streams_;
  std::deque<Pass> passes_;
  std::vector<PassCost> costs_;
  Drafts drafts_;
  EngineStats last_;
  int64_t number_ = 0;  // of the last pass
  Clock::time_point costs_read_;
};

}  // namespace cambium::server
