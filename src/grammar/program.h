#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "grammar/rules.h"

namespace cambium {

// A grammar as an automaton over bytes with a stack. A state has edges over bytes, and what costs no byte: skips to
// other states, calls of rules, counted loops, the end of its rule. Immutable.
class Program {
 public:
  struct Edge {
    uint8_t lo, hi;
    int32_t to;
  };
  struct Call {
    int32_t start;  // of the rule
    int32_t next;   // where it returns to; -1: to the caller's caller
  };
  struct Enter {
    int32_t loop;
    int32_t next;  // behind it
  };
  struct Loop {
    int32_t start;  // of its body, a rule
    int64_t min, max;
  };

  // kUsage where no text satisfies it, or a rule calls itself before any byte.
  Program(Rules& rules, Rules::Rule root);

  int32_t start() const { return start_; }
  int32_t states() const { return static_cast<int32_t>(states_.size()) - 1; }
  std::span<const Edge> edges(int32_t state) const { return Slice(edges_, &State::edge, state); }
  std::span<const Call> calls(int32_t state) const { return Slice(calls_, &State::call, state); }
  std::span<const Enter> enters(int32_t state) const { return Slice(enters_, &State::enter, state); }
  std::span<const int32_t> skips(int32_t state) const { return Slice(skips_, &State::skip, state); }
  bool ends(int32_t state) const { return states_[static_cast<size_t>(state)].ends; }
  const Loop& loop(int32_t loop) const { return loops_[static_cast<size_t>(loop)]; }
  // Bytes that no edge tells apart have one class.
  uint8_t byte_class(uint8_t byte) const { return classes_[byte]; }
  int32_t byte_classes() const { return class_count_; }

 private:
  struct State {
    int32_t edge, call, enter, skip;  // where its own begin
    bool ends;
  };
  template <class T>
  std::span<const T> Slice(const std::vector<T>& all, int32_t State::*begin, int32_t state) const {
    const State* const s = &states_[static_cast<size_t>(state)];
    return {all.data() + s->*begin, static_cast<size_t>((s + 1)->*begin - s->*begin)};
  }
  void ClassBytes();

  int32_t start_ = 0;
  std::vector<State> states_;  // and one behind the last
  std::vector<Edge> edges_;
  std::vector<Call> calls_;
  std::vector<Enter> enters_;
  std::vector<int32_t> skips_;
  std::vector<Loop> loops_;
  uint8_t classes_[256];
  int32_t class_count_ = 0;
};

}  // namespace cambium
