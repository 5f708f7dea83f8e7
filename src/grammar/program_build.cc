#include "grammar/program_build.h"

#include <algorithm>
#include <utility>

#include "cambium/error.h"

namespace cambium {
namespace {

constexpr int kDeepest = 2000;  // expressions inside one another

int64_t Capped(int64_t size) { return std::min<int64_t>(size, int64_t{1} << 40); }

}  // namespace

int32_t ProgramBuilder::NewState() {
  rules_.budget().State();
  states.emplace_back();
  return static_cast<int32_t>(states.size()) - 1;
}

// About how many states an expression takes.
int64_t ProgramBuilder::Size(Rules::Expr expr, int depth) {
  const Rules::Node& node = rules_.node(expr);
  if (depth > kDeepest) Fail(ErrorCode::kUsage, "the grammar is nested deeper than ", kDeepest);
  if (depth > 8) return 1'000;  // deep ones are never small
  switch (node.kind) {
    case Rules::Kind::kText:
      return static_cast<int64_t>(node.text.size());
    case Rules::Kind::kGraph:
      return Capped(node.states + static_cast<int64_t>(node.edges.size()));
    case Rules::Kind::kRepeat: {
      const int64_t times = node.max == Rules::kNoLimit ? node.min + 1 : node.max;
      return Capped(Size(node.parts[0], depth + 1) * Capped(times));
    }
    default: {
      int64_t size = 1;
      for (const Rules::Expr part : node.parts) size = Capped(size + Size(part, depth + 1));
      return size;
    }
  }
}

int32_t ProgramBuilder::StartOf(Rules::Rule rule) {
  int32_t& start = starts_[static_cast<size_t>(rule)];
  if (start < 0) {
    start = NewState();
    wanted_.push_back(rule);
  }
  return start;
}

void ProgramBuilder::Place(Rules::Expr expr, int32_t from, int32_t to) {
  rules_.budget().Step();
  const Rules::Node& node = rules_.node(expr);
  switch (node.kind) {
    case Rules::Kind::kNothing:
      return;
    case Rules::Kind::kEmpty:
      states[static_cast<size_t>(from)].skips.push_back(to);
      return;
    case Rules::Kind::kBytes:
      for (const Rules::ByteRange range : node.ranges) {
        states[static_cast<size_t>(from)].edges.push_back({range.lo, range.hi, to});
      }
      return;
    case Rules::Kind::kText:
      for (size_t i = 0; i < node.text.size(); ++i) {
        const int32_t next = i + 1 == node.text.size() ? to : NewState();
        const auto byte = static_cast<uint8_t>(node.text[i]);
        states[static_cast<size_t>(from)].edges.push_back({byte, byte, next});
        from = next;
      }
      return;
    case Rules::Kind::kSequence:
      for (size_t i = 0; i < node.parts.size(); ++i) {
        const int32_t next = i + 1 == node.parts.size() ? to : NewState();
        Place(node.parts[i], from, next);
        from = next;
      }
      return;
    case Rules::Kind::kChoice:
      for (const Rules::Expr part : node.parts) Place(part, from, to);
      return;
    case Rules::Kind::kRepeat:
      PlaceRepeat(node, from, to);
      return;
    case Rules::Kind::kGraph:
      PlaceGraph(node, from, to);
      return;
    case Rules::Kind::kCall: {
      const bool open = std::ranges::find(inlining_, node.rule) != inlining_.end();
      const Rules::Expr body = rules_.body(node.rule);
      if (!open && inlining_.size() < 8 && Size(body) <= kInlined) {
        inlining_.push_back(node.rule);
        Place(body, from, to);
        inlining_.pop_back();
      } else {
        StartOf(node.rule);
        states[static_cast<size_t>(from)].calls.push_back({node.rule, to});
      }
      return;
    }
  }
}

void ProgramBuilder::PlaceRepeat(const Rules::Node& node, int32_t from, int32_t to) {
  const Rules::Expr part = node.parts[0];
  const bool bounded = node.max != Rules::kNoLimit;
  const int64_t times = bounded ? node.max : node.min;
  if (times > 1 && Capped(times) * Size(part) > kUnrolled) {
    const int32_t body = NewState();
    bodies_.push_back({part, body});
    loops.push_back({body, node.min, node.max});
    states[static_cast<size_t>(from)].enters.push_back({static_cast<int32_t>(loops.size()) - 1, to});
    return;
  }
  int32_t at = from;
  for (int64_t i = 0; i < node.min; ++i) {
    const int32_t next = NewState();
    Place(part, at, next);
    at = next;
  }
  if (!bounded) {
    const int32_t loop = NewState();
    states[static_cast<size_t>(at)].skips.push_back(loop);
    Place(part, loop, loop);
    states[static_cast<size_t>(loop)].skips.push_back(to);
    return;
  }
  states[static_cast<size_t>(at)].skips.push_back(to);
  for (int64_t i = node.min; i < node.max; ++i) {
    const int32_t next = NewState();
    Place(part, at, next);
    states[static_cast<size_t>(next)].skips.push_back(to);
    at = next;
  }
}

void ProgramBuilder::PlaceGraph(const Rules::Node& node, int32_t from, int32_t to) {
  const int32_t first = static_cast<int32_t>(states.size());
  for (int32_t i = 0; i < node.states; ++i) NewState();
  states[static_cast<size_t>(from)].skips.push_back(first);
  for (const Rules::Edge& edge : node.edges) Place(edge.label, first + edge.from, first + edge.to);
  for (const int32_t end : node.ends) states[static_cast<size_t>(first + end)].skips.push_back(to);
}

int32_t ProgramBuilder::Build(Rules::Rule root) {
  const int32_t start = StartOf(root);
  const auto finish = [&](Rules::Expr body, int32_t first) {
    const int32_t last = NewState();
    states[static_cast<size_t>(last)].ends = true;
    Place(body, first, last);
  };
  while (!wanted_.empty() || !bodies_.empty()) {
    if (!bodies_.empty()) {
      const auto body = bodies_.back();
      bodies_.pop_back();
      finish(body.first, body.second);
      continue;
    }
    const Rules::Rule rule = wanted_.back();
    wanted_.pop_back();
    inlining_.assign(1, rule);
    start_names_.resize(states.size());
    start_names_[static_cast<size_t>(StartOf(rule))] = rules_.name(rule);
    finish(rules_.body(rule), StartOf(rule));
    inlining_.clear();
  }
  start_names_.resize(states.size());
  for (State& state : states) {
    for (Program::Call& call : state.calls) call.start = starts_[static_cast<size_t>(call.start)];
  }
  const std::vector<bool> nullable = CanEnd(false);
  for (Program::Loop& loop : loops) {
    if (!nullable[static_cast<size_t>(loop.start)]) continue;
    Fail(ErrorCode::kUsage, "the grammar repeats up to ", loop.max == Rules::kNoLimit ? loop.min : loop.max,
         " times what may be empty: not supported");
  }
  RequireProgress(nullable);
  const std::vector<bool> good = CanEnd(true);
  if (!good[static_cast<size_t>(start)]) Fail(ErrorCode::kUsage, "no text can satisfy the grammar");
  Trim(good);
  Fold();
  // A call behind which its rule ends returns to the caller's caller, so that lists do not pile up frames.
  for (State& state : states) {
    for (Program::Call& call : state.calls) {
      const State& next = states[static_cast<size_t>(call.next)];
      if (next.ends && next.edges.empty() && next.calls.empty() && next.enters.empty() && next.skips.empty()) {
        call.next = -1;
      }
    }
  }
  return start;
}

// Takes what a state reaches by skips into the state itself, where that is little.
void ProgramBuilder::Fold() {
  std::vector<int32_t> seen(states.size(), -1);
  for (int32_t s = 0; s < static_cast<int32_t>(states.size()); ++s) {
    if (states[static_cast<size_t>(s)].skips.empty()) continue;
    State all;
    std::vector<int32_t> open = {s};
    seen[static_cast<size_t>(s)] = s;
    size_t entries = 0;
    while (!open.empty() && entries <= kFolded) {
      const State& from = states[static_cast<size_t>(open.back())];
      open.pop_back();
      rules_.budget().Step();
      all.edges.insert(all.edges.end(), from.edges.begin(), from.edges.end());
      all.calls.insert(all.calls.end(), from.calls.begin(), from.calls.end());
      all.enters.insert(all.enters.end(), from.enters.begin(), from.enters.end());
      all.ends = all.ends || from.ends;
      entries += from.edges.size() + from.calls.size() + from.enters.size() + from.skips.size();
      for (const int32_t next : from.skips) {
        if (std::exchange(seen[static_cast<size_t>(next)], s) != s) open.push_back(next);
      }
    }
    if (open.empty() && entries <= kFolded) states[static_cast<size_t>(s)] = std::move(all);
  }
}

// Which states can reach the end of their rule: at all, or without a byte. Each condition waits for what it lacks.
std::vector<bool> ProgramBuilder::CanEnd(bool with_bytes) {
  struct Condition {
    int32_t state;
    int lacks;
  };
  std::vector<Condition> conditions;
  std::vector<std::vector<int32_t>> waiting(states.size());
  std::vector<bool> good(states.size());
  std::vector<int32_t> open;
  const auto mark = [&](int32_t state) {
    if (good[static_cast<size_t>(state)]) return;
    good[static_cast<size_t>(state)] = true;
    open.push_back(state);
  };
  const auto require = [&](int32_t state, int32_t a, int32_t b) {
    const int32_t index = static_cast<int32_t>(conditions.size());
    conditions.push_back({state, b < 0 ? 1 : 2});
    waiting[static_cast<size_t>(a)].push_back(index);
    if (b >= 0) waiting[static_cast<size_t>(b)].push_back(index);
    rules_.budget().Step();
  };
  for (int32_t s = 0; s < static_cast<int32_t>(states.size()); ++s) {
    const State& state = states[static_cast<size_t>(s)];
    for (const int32_t next : state.skips) require(s, next, -1);
    for (const Program::Call& call : state.calls) require(s, call.start, call.next);
    for (const Program::Enter& enter : state.enters) {
      const Program::Loop& loop = loops[static_cast<size_t>(enter.loop)];
      require(s, enter.next, loop.min == 0 ? -1 : loop.start);
    }
    if (with_bytes) {
      for (const Program::Edge& edge : state.edges) require(s, edge.to, -1);
    }
    if (state.ends) mark(s);
  }
  while (!open.empty()) {
    const int32_t state = open.back();
    open.pop_back();
    for (const int32_t index : waiting[static_cast<size_t>(state)]) {
      Condition& condition = conditions[static_cast<size_t>(index)];
      if (--condition.lacks == 0) mark(condition.state);
    }
  }
  return good;
}

// Leaves no way into a state that cannot be completed.
void ProgramBuilder::Trim(const std::vector<bool>& good) {
  const auto bad = [&](int32_t state) { return !good[static_cast<size_t>(state)]; };
  for (State& state : states) {
    std::erase_if(state.edges, [&](const Program::Edge& e) { return bad(e.to); });
    std::erase_if(state.skips, bad);
    std::erase_if(state.calls, [&](const Program::Call& c) { return bad(c.start) || bad(c.next); });
    for (const Program::Enter& enter : state.enters) {  // of a body that cannot be completed, none is taken
      const Program::Loop& loop = loops[static_cast<size_t>(enter.loop)];
      if (bad(loop.start) && loop.min == 0 && !bad(enter.next)) state.skips.push_back(enter.next);
    }
    std::erase_if(state.enters, [&](const Program::Enter& e) {
      return bad(e.next) || bad(loops[static_cast<size_t>(e.loop)].start);
    });
  }
}

// kUsage where a rule calls itself before any byte: the stack would grow for ever.
void ProgramBuilder::RequireProgress(const std::vector<bool>& nullable) {
  const auto called_first = [&](int32_t start) {
    std::vector<int32_t> found, open = {start}, seen = {start};
    const auto visit = [&](int32_t state) {
      rules_.budget().Step(1 + static_cast<int64_t>(seen.size()) / 64);
      if (std::ranges::find(seen, state) != seen.end()) return;
      seen.push_back(state);
      open.push_back(state);
    };
    while (!open.empty()) {
      const State& state = states[static_cast<size_t>(open.back())];
      open.pop_back();
      for (const int32_t next : state.skips) visit(next);
      for (const Program::Call& call : state.calls) {
        found.push_back(call.start);
        if (nullable[static_cast<size_t>(call.start)]) visit(call.next);
      }
      for (const Program::Enter& enter : state.enters) {
        const Program::Loop& loop = loops[static_cast<size_t>(enter.loop)];
        found.push_back(loop.start);
        if (loop.min == 0) visit(enter.next);
      }
    }
    return found;
  };
  std::vector<uint8_t> color(states.size());  // 1: on the path, 2: done
  std::vector<std::pair<int32_t, std::vector<int32_t>>> path;
  std::vector<int32_t> firsts(starts_);
  for (const Program::Loop& loop : loops) firsts.push_back(loop.start);
  for (const int32_t first : firsts) {
    if (first < 0 || color[static_cast<size_t>(first)] != 0) continue;
    path.push_back({first, called_first(first)});
    color[static_cast<size_t>(first)] = 1;
    while (!path.empty()) {
      if (path.back().second.empty()) {
        color[static_cast<size_t>(path.back().first)] = 2;
        path.pop_back();
        continue;
      }
      const int32_t next = path.back().second.back();
      path.back().second.pop_back();
      if (color[static_cast<size_t>(next)] == 1) {
        Fail(ErrorCode::kUsage, "the grammar's rule \"", start_names_[static_cast<size_t>(next)],
             "\" calls itself before any text: left recursion is not supported");
      }
      if (color[static_cast<size_t>(next)] != 0) continue;
      color[static_cast<size_t>(next)] = 1;
      path.push_back({next, called_first(next)});
    }
  }
}

}  // namespace cambium
