#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/rules.h"

namespace cambium {

// A regular expression as a tree.
struct RegexNode {
  enum class Kind { kSet, kSequence, kChoice, kRepeat, kBegin, kEnd };
  Kind kind;
  CodeSet set = {};                 // kSet
  std::vector<int32_t> parts = {};  // nodes
  int64_t min = 0, max = 0;         // kRepeat
};

// Reads ECMA 262's syntax; see regex.h.
class RegexParser {
 public:
  RegexParser(std::string_view pattern, std::string_view what, CompileBudget& budget);
  int32_t Parse();  // the root
  const RegexNode& node(int32_t index) const { return nodes_[static_cast<size_t>(index)]; }

 private:
  static constexpr int kDeepest = 200;
  static constexpr int64_t kMostRepeats = 100'000;

  int32_t Alternatives(int depth);
  int32_t Terms(int depth);
  int32_t Atom(int depth);
  int32_t Group(int depth);
  int32_t Quantified(int32_t atom);
  bool Counts(int64_t& min, int64_t& max);
  CodeSet Class();
  CodeSet Escape(bool in_class);
  CodeSet Property(bool negated);
  uint32_t Hex(int digits);
  int32_t Add(RegexNode node);
  bool more() const { return at_ < codes_.size(); }
  uint32_t peek() const { return codes_[at_]; }
  bool Take(uint32_t code);
  [[noreturn]] void Wrong(const std::string& why) const;

  std::vector<uint32_t> codes_;
  std::string pattern_, what_;
  CompileBudget& budget_;
  size_t at_ = 0;
  std::vector<RegexNode> nodes_;
};

}  // namespace cambium
