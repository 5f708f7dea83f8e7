#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/rules.h"

namespace cambium {

// A deterministic automaton over code points: regular expressions, formats, ranges of numbers, and what is made of
// them. What has no edge is refused. Every state but a first one leads to an accepting one.
class CharDfa {
 public:
  struct Edge {
    uint32_t lo, hi;
    int32_t to;
    bool operator==(const Edge&) const = default;
  };
  struct State {
    std::vector<Edge> edges = {};  // sorted, apart
    bool accepts = false;
  };

  CharDfa() : states_(1) {}  // accepts nothing
  // Begins in state 0. Trims it.
  explicit CharDfa(std::vector<State> states);
  static CharDfa Any();  // every text
  static CharDfa OneOf(const std::vector<std::string>& texts);

  const std::vector<State>& states() const { return states_; }
  bool empty() const { return !states_[0].accepts && states_[0].edges.empty(); }  // of no text at all
  bool Matches(std::string_view text) const;

  CharDfa And(const CharDfa& other, CompileBudget& budget) const { return Product(other, false, budget); }
  CharDfa Without(const CharDfa& other, CompileBudget& budget) const { return Product(other, true, budget); }
  CharDfa WithLength(int64_t min, int64_t max, CompileBudget& budget) const;

  // As texts in UTF-8, and as the inside of a JSON string, where each character has one spelling.
  Rules::Expr Utf8(Rules& rules) const;
  Rules::Expr JsonString(Rules& rules) const;

 private:
  CharDfa Product(const CharDfa& other, bool without, CompileBudget& budget) const;
  void Trim();
  int64_t LongestText() const;  // kNoLimit where there is none
  std::vector<State> states_;
};

}  // namespace cambium
