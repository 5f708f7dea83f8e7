#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace cambium {

// What compiling a grammar may cost before it is refused: a schema comes from anybody.
class CompileBudget {
 public:
  static constexpr int64_t kMostSteps = 10'000'000;  // of any kind: under a second
  static constexpr int64_t kMostStates = 200'000;

  // kUsage when the sum is beyond the limit.
  void Step(int64_t steps = 1) {
    if ((steps_ += steps) > kMostSteps) TooMuch("time");
  }
  void State(int64_t states = 1) {
    if ((states_ += states) > kMostStates) TooMuch("states");
  }

 private:
  [[noreturn]] static void TooMuch(const char* of_what);
  int64_t steps_ = 0, states_ = 0;
};

// Code points from lo to hi.
struct CodeRange {
  uint32_t lo, hi;
  bool operator==(const CodeRange&) const = default;
};
using CodeSet = std::vector<CodeRange>;  // sorted, apart

CodeSet Normalized(CodeSet set);
CodeSet Complement(const CodeSet& set);  // of all code points but surrogates

// A grammar before it is an automaton: expressions, and rules that they call. Texts are bytes. A control token of the
// vocabulary, which is no text, is written as kControlByte and its name (ControlText).
class Rules {
 public:
  static constexpr unsigned char kControlByte = 0xFF;
  static constexpr int64_t kNoLimit = INT64_MAX;
  using Expr = int32_t;
  using Rule = int32_t;
  enum class Kind : uint8_t { kNothing, kEmpty, kBytes, kText, kSequence, kChoice, kRepeat, kCall, kGraph };
  struct ByteRange {
    uint8_t lo, hi;
  };
  struct Edge {
    int32_t from, to;
    Expr label;
  };
  struct Node {
    Kind kind;
    std::vector<Expr> parts = {};        // kSequence, kChoice; kRepeat: one
    std::vector<ByteRange> ranges = {};  // kBytes
    std::string text = {};               // kText
    int64_t min = 0, max = 0;            // kRepeat
    Rule rule = -1;                      // kCall
    int32_t states = 0;                  // kGraph: begins in state 0
    std::vector<Edge> edges = {};        // kGraph
    std::vector<int32_t> ends = {};      // kGraph: the states that it may end in
  };

  Rules();
  Expr Nothing() const { return 0; }  // no text at all
  Expr Empty() const { return 1; }    // the empty text
  Expr Bytes(std::vector<ByteRange> ranges);
  Expr Text(std::string_view text);
  Expr Texts(std::vector<std::string> texts);  // one of them, as a tree
  Expr CodePoints(const CodeSet& set);         // one code point's UTF-8
  Expr Sequence(std::vector<Expr> parts);
  Expr Choice(std::vector<Expr> parts);
  Expr Repeat(Expr part, int64_t min, int64_t max);
  Expr Optional(Expr part) { return Repeat(part, 0, 1); }
  Expr Call(Rule rule);
  Expr Graph(int32_t states, std::vector<Edge> edges, std::vector<int32_t> ends);

  Rule NewRule(std::string name);
  void Define(Rule rule, Expr expr) { bodies_[static_cast<size_t>(rule)] = expr; }

  const Node& node(Expr expr) const { return nodes_[static_cast<size_t>(expr)]; }
  int32_t rules() const { return static_cast<int32_t>(bodies_.size()); }
  const std::string& name(Rule rule) const { return names_[static_cast<size_t>(rule)]; }
  Expr body(Rule rule) const { return bodies_[static_cast<size_t>(rule)]; }
  CompileBudget& budget() { return budget_; }

 private:
  Expr Add(Node node);
  std::vector<Node> nodes_;
  std::vector<std::string> names_;
  std::vector<Expr> bodies_;
  CompileBudget budget_;
};

std::string ControlText(std::string_view name);

}  // namespace cambium
