#pragma once

#include <cstdint>
#include <vector>

#include "grammar/program.h"

namespace cambium {

// A program while it is built: states with lists of their own.
class ProgramBuilder {
 public:
  struct State {
    std::vector<Program::Edge> edges = {};
    std::vector<Program::Call> calls = {};  // `start` is a rule until Finish
    std::vector<Program::Enter> enters = {};
    std::vector<int32_t> skips = {};
    bool ends = false;
  };

  explicit ProgramBuilder(Rules& rules) : rules_(rules), starts_(static_cast<size_t>(rules.rules()), -1) {}
  // Everything that `root` reaches, without what cannot be completed; its first state.
  int32_t Build(Rules::Rule root);

  std::vector<State> states;
  std::vector<Program::Loop> loops;

 private:
  static constexpr int64_t kUnrolled = 64;  // states at most that a repeat is written out as
  static constexpr int64_t kInlined = 24;   // of a rule that is written in place of its call
  static constexpr size_t kFolded = 64;     // entries of a state that take in those of the states it skips to

  int32_t NewState();
  int64_t Size(Rules::Expr expr, int depth = 0);
  void Place(Rules::Expr expr, int32_t from, int32_t to);
  void PlaceRepeat(const Rules::Node& node, int32_t from, int32_t to);
  void PlaceGraph(const Rules::Node& node, int32_t from, int32_t to);
  int32_t StartOf(Rules::Rule rule);
  void Fold();
  std::vector<bool> CanEnd(bool with_bytes);
  void Trim(const std::vector<bool>& good);
  void RequireProgress(const std::vector<bool>& nullable);

  Rules& rules_;
  std::vector<int32_t> starts_;  // by rule; -1: not called so far
  std::vector<Rules::Rule> wanted_;
  std::vector<std::pair<int32_t, int32_t>> bodies_;  // of counted loops: expression, first state
  std::vector<Rules::Rule> inlining_;
  std::vector<std::string> start_names_;  // by state; empty: no rule's first
};

}  // namespace cambium
