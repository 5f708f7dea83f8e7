#include "grammar/rules.h"

#include <algorithm>

#include "cambium/error.h"
#include "io/unicode.h"

namespace cambium {
namespace {

constexpr uint32_t kLastCode = 0x10FFFF;

// The UTF-8 of [lo, hi], which have the same length and share their first bytes but for the last `free` of them.
void AddUtf8(uint32_t lo, uint32_t hi, std::vector<std::vector<Rules::ByteRange>>& out) {
  std::string first, last;
  AppendUtf8(first, lo);
  AppendUtf8(last, hi);
  std::vector<Rules::ByteRange> ranges;
  for (size_t i = 0; i < first.size(); ++i) {
    ranges.push_back({static_cast<uint8_t>(first[i]), static_cast<uint8_t>(last[i])});
  }
  out.push_back(std::move(ranges));
}

// Cuts a range where its UTF-8 is no longer a product of byte ranges.
void CutUtf8(uint32_t lo, uint32_t hi, std::vector<std::vector<Rules::ByteRange>>& out) {
  for (const uint32_t end : {0x7Fu, 0x7FFu, 0xFFFFu}) {
    if (lo <= end && end < hi) {
      CutUtf8(lo, end, out);
      CutUtf8(end + 1, hi, out);
      return;
    }
  }
  if (hi > 0x7F) {
    for (const int shift : {6, 12, 18}) {
      const uint32_t low = (1u << shift) - 1;
      if ((lo & ~low) == (hi & ~low)) continue;
      if ((lo & low) != 0) {
        CutUtf8(lo, lo | low, out);
        CutUtf8((lo | low) + 1, hi, out);
        return;
      }
      if ((hi & low) != low) {
        CutUtf8(lo, (hi & ~low) - 1, out);
        CutUtf8(hi & ~low, hi, out);
        return;
      }
    }
  }
  AddUtf8(lo, hi, out);
}

}  // namespace

void CompileBudget::TooMuch(const char* of_what) {
  Fail(ErrorCode::kUsage, "the grammar is too large: compiling it takes too ",
       std::string_view(of_what) == "time" ? "much time" : "many states", "; the limits are ", kMostSteps,
       " steps and ", kMostStates, " states");
}

CodeSet Normalized(CodeSet set) {
  std::ranges::sort(set, {}, &CodeRange::lo);
  CodeSet out;
  for (const CodeRange& range : set) {
    if (!out.empty() && range.lo <= out.back().hi + 1) {
      out.back().hi = std::max(out.back().hi, range.hi);
    } else {
      out.push_back(range);
    }
  }
  return out;
}

CodeSet Complement(const CodeSet& set) {
  CodeSet taken = set;
  taken.push_back({0xD800, 0xDFFF});
  CodeSet out;
  uint32_t next = 0;
  for (const CodeRange& range : Normalized(std::move(taken))) {
    if (range.lo > next) out.push_back({next, range.lo - 1});
    next = range.hi + 1;
  }
  if (next <= kLastCode) out.push_back({next, kLastCode});
  return out;
}

std::string ControlText(std::string_view name) {
  return static_cast<char>(Rules::kControlByte) + std::string(name) + static_cast<char>(Rules::kControlByte);
}

Rules::Rules() {
  nodes_.push_back({Kind::kNothing, {}, {}, {}});
  nodes_.push_back({Kind::kEmpty, {}, {}, {}});
}

Rules::Expr Rules::Add(Node node) {
  budget_.State();
  nodes_.push_back(std::move(node));
  return static_cast<Expr>(nodes_.size()) - 1;
}

Rules::Expr Rules::Bytes(std::vector<ByteRange> ranges) {
  Node node{Kind::kBytes, {}, {}, {}};
  node.ranges = std::move(ranges);
  return Add(std::move(node));
}

Rules::Expr Rules::Text(std::string_view text) {
  if (text.empty()) return Empty();
  Node node{Kind::kText, {}, {}, {}};
  node.text = text;
  return Add(std::move(node));
}

Rules::Expr Rules::Texts(std::vector<std::string> texts) {
  if (texts.size() == 1) return Text(texts[0]);
  std::ranges::sort(texts);
  texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
  std::vector<Edge> edges;
  std::vector<int32_t> ends, path = {0};  // path: the states along the last text
  int32_t states = 1;
  std::string_view last;
  for (const std::string& text : texts) {
    const size_t common =
        static_cast<size_t>(std::mismatch(text.begin(), text.end(), last.begin(), last.end()).first - text.begin());
    path.resize(common + 1);
    for (size_t i = common; i < text.size(); ++i) {
      const auto byte = static_cast<uint8_t>(text[i]);
      edges.push_back({path.back(), states, Bytes({{byte, byte}})});
      path.push_back(states++);
    }
    ends.push_back(path.back());
    last = text;
  }
  return Graph(states, std::move(edges), std::move(ends));
}

Rules::Expr Rules::CodePoints(const CodeSet& set) {
  std::vector<std::vector<ByteRange>> cut;
  for (const CodeRange& range : set) {
    // Surrogates have no UTF-8.
    if (range.lo < 0xD800) CutUtf8(range.lo, std::min(range.hi, 0xD7FFu), cut);
    if (range.hi > 0xDFFF) CutUtf8(std::max(range.lo, 0xE000u), range.hi, cut);
  }
  std::vector<Expr> parts;
  std::vector<ByteRange> single;
  for (const auto& ranges : cut) {
    if (ranges.size() == 1) {
      single.push_back(ranges[0]);
      continue;
    }
    std::vector<Expr> bytes;
    for (const ByteRange range : ranges) bytes.push_back(Bytes({range}));
    parts.push_back(Sequence(std::move(bytes)));
  }
  if (!single.empty()) parts.push_back(Bytes(std::move(single)));
  return Choice(std::move(parts));
}

Rules::Expr Rules::Sequence(std::vector<Expr> parts) {
  std::erase(parts, Empty());
  if (std::ranges::find(parts, Nothing()) != parts.end()) return Nothing();
  if (parts.empty()) return Empty();
  if (parts.size() == 1) return parts[0];
  return Add({Kind::kSequence, std::move(parts), {}, {}});
}

Rules::Expr Rules::Choice(std::vector<Expr> parts) {
  std::erase(parts, Nothing());
  std::vector<Expr> once;
  for (const Expr part : parts) {
    if (std::ranges::find(once, part) == once.end()) once.push_back(part);
    budget_.Step(static_cast<int64_t>(once.size()) / 16 + 1);
  }
  if (once.empty()) return Nothing();
  if (once.size() == 1) return once[0];
  return Add({Kind::kChoice, std::move(once), {}, {}});
}

Rules::Expr Rules::Repeat(Expr part, int64_t min, int64_t max) {
  if (max < min) return Nothing();
  if (part == Nothing()) return min == 0 ? Empty() : Nothing();
  if (max == 0 || part == Empty()) return Empty();
  if (min == 1 && max == 1) return part;
  Node node{Kind::kRepeat, {part}, {}, {}};
  node.min = min;
  node.max = max;
  return Add(std::move(node));
}

Rules::Expr Rules::Call(Rule rule) {
  Node node{Kind::kCall, {}, {}, {}};
  node.rule = rule;
  return Add(std::move(node));
}

Rules::Expr Rules::Graph(int32_t states, std::vector<Edge> edges, std::vector<int32_t> ends) {
  std::erase_if(edges, [&](const Edge& edge) { return edge.label == Nothing(); });
  Node node{Kind::kGraph, {}, {}, {}};
  budget_.State(states);
  node.states = states;
  node.edges = std::move(edges);
  node.ends = std::move(ends);
  return Add(std::move(node));
}

Rules::Rule Rules::NewRule(std::string name) {
  names_.push_back(std::move(name));
  bodies_.push_back(Nothing());
  return static_cast<Rule>(bodies_.size()) - 1;
}

}  // namespace cambium
