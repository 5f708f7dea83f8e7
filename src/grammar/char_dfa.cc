#include "grammar/char_dfa.h"

#include <algorithm>
#include <map>

#include "io/unicode.h"

namespace cambium {
namespace {

constexpr uint32_t kLastCode = 0x10FFFF;

int32_t Target(const CharDfa::State& state, uint32_t code) {
  const auto edge = std::ranges::upper_bound(state.edges, code, {}, &CharDfa::Edge::lo);
  if (edge == state.edges.begin() || (edge - 1)->hi < code) return -1;
  return (edge - 1)->to;
}

void AddEdge(std::vector<CharDfa::Edge>& edges, const CharDfa::Edge& edge) {
  if (!edges.empty() && edges.back().to == edge.to && edges.back().hi + 1 == edge.lo) {
    edges.back().hi = edge.hi;
  } else {
    edges.push_back(edge);
  }
}

// A range of code points inside a JSON string.
Rules::Expr JsonCodes(Rules& rules, uint32_t lo, uint32_t hi) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::vector<Rules::Expr> parts;
  CodeSet plain;
  uint32_t at = lo;
  const auto special = [&](uint32_t code, const std::string& spelled) {
    if (code < lo || code > hi) return;
    parts.push_back(rules.Text(spelled));
    if (code > at) plain.push_back({at, code - 1});
    at = code + 1;
  };
  for (uint32_t code = 0; code < 0x20; ++code) {
    static const std::map<uint32_t, std::string> kShort = {
        {8, "\\b"}, {9, "\\t"}, {10, "\\n"}, {12, "\\f"}, {13, "\\r"}};
    const auto found = kShort.find(code);
    special(code, found != kShort.end() ? found->second : std::string("\\u00") + kHex[code >> 4] + kHex[code & 15]);
  }
  special('"', "\\\"");
  special('\\', "\\\\");
  if (at <= hi) plain.push_back({at, hi});
  if (!plain.empty()) parts.push_back(rules.CodePoints(plain));
  return rules.Choice(std::move(parts));
}

template <class Label>
Rules::Expr ToGraph(Rules& rules, const std::vector<CharDfa::State>& states, const Label& label) {
  std::map<std::pair<uint32_t, uint32_t>, Rules::Expr> labels;
  std::vector<Rules::Edge> edges;
  std::vector<int32_t> ends;
  for (int32_t s = 0; s < static_cast<int32_t>(states.size()); ++s) {
    const CharDfa::State& state = states[static_cast<size_t>(s)];
    if (state.accepts) ends.push_back(s);
    for (const CharDfa::Edge& edge : state.edges) {
      const auto [at, fresh] = labels.try_emplace({edge.lo, edge.hi}, 0);
      if (fresh) at->second = label(edge.lo, edge.hi);
      edges.push_back({s, edge.to, at->second});
    }
  }
  return rules.Graph(static_cast<int32_t>(states.size()), std::move(edges), std::move(ends));
}

}  // namespace

CharDfa::CharDfa(std::vector<State> states) : states_(std::move(states)) { Trim(); }

CharDfa CharDfa::Any() {
  State state;
  state.accepts = true;
  state.edges = {{0, kLastCode, 0}};
  return CharDfa({std::move(state)});
}

CharDfa CharDfa::OneOf(const std::vector<std::string>& texts) {
  std::vector<std::map<uint32_t, int32_t>> next(1);
  std::vector<bool> accepts(1);
  for (const std::string& text : texts) {
    size_t state = 0;
    for (const char *at = text.data(), *end = at + text.size(); at < end;) {
      const CodePoint code = DecodeUtf8(at, end);
      at += code.length;
      const auto [found, fresh] = next[state].try_emplace(code.value, static_cast<int32_t>(next.size()));
      state = static_cast<size_t>(found->second);
      if (fresh) {
        next.emplace_back();
        accepts.push_back(false);
      }
    }
    accepts[state] = true;
  }
  std::vector<State> states(next.size());
  for (size_t s = 0; s < next.size(); ++s) {
    states[s].accepts = accepts[s];
    for (const auto& [code, to] : next[s]) states[s].edges.push_back({code, code, to});
  }
  return CharDfa(std::move(states));
}

bool CharDfa::Matches(std::string_view text) const {
  int32_t state = 0;
  for (const char *at = text.data(), *end = at + text.size(); at < end && state >= 0;) {
    const CodePoint code = DecodeUtf8(at, end);
    at += code.length;
    state = Target(states_[static_cast<size_t>(state)], code.value);
  }
  return state >= 0 && states_[static_cast<size_t>(state)].accepts;
}

// Drops what does not lead to an accepting state, and what is not reached.
void CharDfa::Trim() {
  const size_t count = states_.size();
  std::vector<std::vector<int32_t>> before(count);
  for (size_t s = 0; s < count; ++s) {
    for (const Edge& edge : states_[s].edges) before[static_cast<size_t>(edge.to)].push_back(static_cast<int32_t>(s));
  }
  std::vector<bool> useful(count);
  std::vector<int32_t> open;
  const auto mark = [&](int32_t s) {
    if (useful[static_cast<size_t>(s)]) return;
    useful[static_cast<size_t>(s)] = true;
    open.push_back(s);
  };
  for (size_t s = 0; s < count; ++s) {
    if (states_[s].accepts) mark(static_cast<int32_t>(s));
  }
  while (!open.empty()) {
    const int32_t s = open.back();
    open.pop_back();
    for (const int32_t from : before[static_cast<size_t>(s)]) mark(from);
  }
  std::vector<int32_t> number(count, -1), order = {0};
  number[0] = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    std::vector<Edge>& edges = states_[static_cast<size_t>(order[i])].edges;
    std::erase_if(edges, [&](const Edge& edge) { return !useful[static_cast<size_t>(edge.to)]; });
    for (Edge& edge : edges) {
      int32_t& to = number[static_cast<size_t>(edge.to)];
      if (to < 0) {
        to = static_cast<int32_t>(order.size());
        order.push_back(edge.to);
      }
      edge.to = to;
    }
  }
  std::vector<State> kept;
  for (const int32_t s : order) kept.push_back(std::move(states_[static_cast<size_t>(s)]));
  states_ = std::move(kept);
}

// Texts of both, or of this one and not of the other (whose state is then -1 once it has refused).
CharDfa CharDfa::Product(const CharDfa& other, bool without, CompileBudget& budget) const {
  std::map<std::pair<int32_t, int32_t>, int32_t> numbers = {{{0, 0}, 0}};
  std::vector<std::pair<int32_t, int32_t>> order = {{0, 0}};
  std::vector<State> states;
  static const State kRefused;
  for (size_t i = 0; i < order.size(); ++i) {
    budget.State();
    const State& a = states_[static_cast<size_t>(order[i].first)];
    const State& b = order[i].second < 0 ? kRefused : other.states_[static_cast<size_t>(order[i].second)];
    State state;
    state.accepts = a.accepts && b.accepts != without;
    const auto add = [&](uint32_t lo, uint32_t hi, int32_t to_a, int32_t to_b) {
      budget.Step();
      if (lo > hi || (to_b < 0 && !without)) return;
      const auto [at, fresh] = numbers.try_emplace({to_a, to_b}, static_cast<int32_t>(order.size()));
      if (fresh) order.push_back({to_a, to_b});
      AddEdge(state.edges, {lo, hi, at->second});
    };
    for (const Edge& edge : a.edges) {
      uint32_t lo = edge.lo;
      for (const Edge& cut : b.edges) {
        budget.Step();
        if (cut.hi < lo || cut.lo > edge.hi) continue;
        if (cut.lo > lo) add(lo, cut.lo - 1, edge.to, -1);
        const uint32_t hi = std::min(cut.hi, edge.hi);
        add(std::max(lo, cut.lo), hi, edge.to, cut.to);
        lo = hi + 1;
      }
      if (lo <= edge.hi) add(lo, edge.hi, edge.to, -1);
    }
    states.push_back(std::move(state));
  }
  return CharDfa(std::move(states));
}

int64_t CharDfa::LongestText() const {
  // Every state is useful, so a cycle means that there is no longest.
  const size_t count = states_.size();
  std::vector<int64_t> longest(count, 0);
  std::vector<int> waiting(count, 0);
  for (const State& state : states_) {
    for (const Edge& edge : state.edges) ++waiting[static_cast<size_t>(edge.to)];
  }
  if (waiting[0] > 0) return Rules::kNoLimit;
  std::vector<size_t> order = {0};
  for (size_t i = 0; i < order.size(); ++i) {
    for (const Edge& edge : states_[order[i]].edges) {
      const auto to = static_cast<size_t>(edge.to);
      longest[to] = std::max(longest[to], longest[order[i]] + 1);
      if (--waiting[to] == 0) order.push_back(to);
    }
  }
  if (order.size() < count) return Rules::kNoLimit;
  return *std::ranges::max_element(longest);
}

CharDfa CharDfa::WithLength(int64_t min, int64_t max, CompileBudget& budget) const {
  if (max == Rules::kNoLimit && min <= 0) return *this;
  if (max != Rules::kNoLimit && min <= 0 && LongestText() <= max) return *this;
  const int64_t last = max == Rules::kNoLimit ? min : max;
  // A counter as an automaton: state i has read i characters.
  std::vector<State> states;
  for (int64_t i = 0; i <= last; ++i) {
    budget.State();
    State state;
    state.accepts = i >= min;
    if (i < last) state.edges = {{0, kLastCode, static_cast<int32_t>(i + 1)}};
    if (i == last && max == Rules::kNoLimit) state.edges = {{0, kLastCode, static_cast<int32_t>(i)}};
    states.push_back(std::move(state));
  }
  return And(CharDfa(std::move(states)), budget);
}

Rules::Expr CharDfa::Utf8(Rules& rules) const {
  return ToGraph(rules, states_, [&](uint32_t lo, uint32_t hi) { return rules.CodePoints({{lo, hi}}); });
}

Rules::Expr CharDfa::JsonString(Rules& rules) const {
  return ToGraph(rules, states_, [&](uint32_t lo, uint32_t hi) { return JsonCodes(rules, lo, hi); });
}

}  // namespace cambium
