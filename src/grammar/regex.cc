#include "grammar/regex.h"

#include <algorithm>
#include <map>

#include "grammar/regex_parser.h"

namespace cambium {
namespace {

constexpr uint32_t kLastCode = 0x10FFFF;

// Thompson's automaton of a regular expression, made deterministic by sets of its nodes.
class RegexCompiler {
 public:
  RegexCompiler(const RegexParser& parser, CompileBudget& budget) : parser_(parser), budget_(budget) {}

  CharDfa Compile(int32_t root, RegexMatch match) {
    const int32_t begin = New(), first = New(), last = New();
    accept_ = New();
    Place(root, first, last);
    Skip(begin, first);
    if (match == RegexMatch::kSearch) {
      static const CodeSet kAny = {{0, kLastCode}};
      Read(begin, &kAny, begin);
      const int32_t rest = New();
      Skip(last, rest);
      Read(rest, &kAny, rest);
      Skip(rest, accept_);
    } else {
      Skip(last, accept_);
    }
    return Determined(begin);
  }

 private:
  enum class Guard : uint8_t { kNone, kBegin, kEnd };
  struct Node {
    std::vector<std::pair<int32_t, Guard>> skips = {};
    std::vector<std::pair<const CodeSet*, int32_t>> reads = {};
  };

  int32_t New() {
    budget_.State();
    nodes_.emplace_back();
    return static_cast<int32_t>(nodes_.size()) - 1;
  }
  void Skip(int32_t from, int32_t to, Guard guard = Guard::kNone) {
    nodes_[static_cast<size_t>(from)].skips.push_back({to, guard});
  }
  void Read(int32_t from, const CodeSet* set, int32_t to) {
    nodes_[static_cast<size_t>(from)].reads.push_back({set, to});
  }

  void Place(int32_t index, int32_t from, int32_t to) {
    const RegexNode& node = parser_.node(index);
    switch (node.kind) {
      case RegexNode::Kind::kSet:
        return Read(from, &node.set, to);
      case RegexNode::Kind::kBegin:
        return Skip(from, to, Guard::kBegin);
      case RegexNode::Kind::kEnd:
        return Skip(from, to, Guard::kEnd);
      case RegexNode::Kind::kChoice:
        for (const int32_t part : node.parts) Place(part, from, to);
        return;
      case RegexNode::Kind::kSequence:
        for (const int32_t part : node.parts) from = Placed(part, from);
        return Skip(from, to);
      case RegexNode::Kind::kRepeat:
        for (int64_t i = 0; i < node.min; ++i) from = Placed(node.parts[0], from);
        if (node.max == Rules::kNoLimit) {
          const int32_t loop = New();
          Skip(from, loop);
          Place(node.parts[0], loop, loop);
          return Skip(loop, to);
        }
        Skip(from, to);
        for (int64_t i = node.min; i < node.max; ++i) {
          from = Placed(node.parts[0], from);
          Skip(from, to);
        }
        return;
    }
  }
  int32_t Placed(int32_t index, int32_t from) {
    const int32_t next = New();
    Place(index, from, next);
    return next;
  }

  // The nodes that read, of those that `open` reaches by skips; whether the end is among them. Behind a `$` nothing is
  // read any more.
  std::pair<std::vector<int32_t>, bool> Closed(const std::vector<int32_t>& open, bool at_begin) {
    std::vector<std::pair<int32_t, bool>> stack;
    std::vector<int32_t> readers;
    bool accepts = false;
    ++round_;
    seen_.resize(nodes_.size() * 2);
    const auto visit = [&](int32_t node, bool ended) {
      uint32_t& seen = seen_[static_cast<size_t>(node) * 2 + (ended ? 1 : 0)];
      if (seen == round_) return;
      seen = round_;
      stack.push_back({node, ended});
    };
    for (const int32_t node : open) visit(node, false);
    while (!stack.empty()) {
      budget_.Step();
      const auto [index, ended] = stack.back();
      stack.pop_back();
      const Node& node = nodes_[static_cast<size_t>(index)];
      if (index == accept_) accepts = true;
      if (!ended && !node.reads.empty()) readers.push_back(index);
      for (const auto& [to, guard] : node.skips) {
        if (guard == Guard::kBegin && !at_begin) continue;
        visit(to, ended || guard == Guard::kEnd);
      }
    }
    std::ranges::sort(readers);
    return {std::move(readers), accepts};
  }

  CharDfa Determined(int32_t begin) {
    std::map<std::pair<std::vector<int32_t>, bool>, int32_t> numbers;
    std::vector<const std::vector<int32_t>*> order;
    std::vector<CharDfa::State> states;
    const auto number = [&](const std::vector<int32_t>& open, bool at_begin) {
      const auto [at, fresh] = numbers.try_emplace(Closed(open, at_begin), static_cast<int32_t>(states.size()));
      if (fresh) {
        budget_.State();
        budget_.Step(static_cast<int64_t>(at->first.first.size()));
        order.push_back(&at->first.first);
        states.emplace_back().accepts = at->first.second;
      }
      return at->second;
    };
    number({begin}, true);
    for (size_t s = 0; s < order.size(); ++s) {
      struct Reading {
        uint32_t lo, hi;
        int32_t to;
      };
      std::vector<Reading> readings;
      std::vector<uint32_t> cuts;
      for (const int32_t node : *order[s]) {
        for (const auto& [set, to] : nodes_[static_cast<size_t>(node)].reads) {
          for (const CodeRange& range : *set) {
            readings.push_back({range.lo, range.hi, to});
            cuts.insert(cuts.end(), {range.lo, range.hi + 1});
          }
        }
      }
      std::ranges::sort(readings, {}, &Reading::lo);
      std::ranges::sort(cuts);
      cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
      std::vector<Reading> active;
      std::vector<CharDfa::Edge> edges;
      size_t next = 0;
      for (size_t i = 0; i + 1 < cuts.size(); ++i) {
        std::erase_if(active, [&](const Reading& r) { return r.hi < cuts[i]; });
        for (; next < readings.size() && readings[next].lo == cuts[i]; ++next) active.push_back(readings[next]);
        budget_.Step(static_cast<int64_t>(active.size()) + 1);
        if (active.empty()) continue;
        std::vector<int32_t> open;
        for (const Reading& r : active) open.push_back(r.to);
        std::ranges::sort(open);
        open.erase(std::unique(open.begin(), open.end()), open.end());
        const int32_t to = number(open, false);
        const bool joins = !edges.empty() && edges.back().to == to && edges.back().hi + 1 == cuts[i];
        if (joins) {
          edges.back().hi = cuts[i + 1] - 1;
        } else {
          edges.push_back({cuts[i], cuts[i + 1] - 1, to});
        }
      }
      states[s].edges = std::move(edges);
    }
    return CharDfa(std::move(states));
  }

  const RegexParser& parser_;
  CompileBudget& budget_;
  std::vector<Node> nodes_;
  std::vector<uint32_t> seen_;
  uint32_t round_ = 0;
  int32_t accept_ = -1;
};

}  // namespace

CharDfa CompileRegex(std::string_view pattern, RegexMatch match, std::string_view what, CompileBudget& budget) {
  RegexParser parser(pattern, what, budget);
  const int32_t root = parser.Parse();
  return RegexCompiler(parser, budget).Compile(root, match);
}

}  // namespace cambium
