#include "grammar/regex_parser.h"

#include <array>

#include "cambium/error.h"
#include "io/unicode.h"

namespace cambium {
namespace {

const CodeSet kDigits = {{'0', '9'}};
const CodeSet kWord = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const CodeSet kSpace = {{9, 13},          {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
                        {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const CodeSet kLineEnds = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

CodeSet SetOf(CharClass wanted) {
  CodeSet set;
  for (uint32_t code = 0; code <= 0x10FFFF; ++code) {
    if ((code >= 0xD800 && code <= 0xDFFF) || ClassOf(code) != wanted) continue;
    if (!set.empty() && set.back().hi + 1 == code) {
      set.back().hi = code;
    } else {
      set.push_back({code, code});
    }
  }
  return set;
}

int HexDigit(uint32_t code) {
  if (code >= '0' && code <= '9') return static_cast<int>(code - '0');
  if (code >= 'a' && code <= 'f') return static_cast<int>(code - 'a') + 10;
  if (code >= 'A' && code <= 'F') return static_cast<int>(code - 'A') + 10;
  return -1;
}

}  // namespace

RegexParser::RegexParser(std::string_view pattern, std::string_view what, CompileBudget& budget)
    : pattern_(pattern), what_(what), budget_(budget) {
  for (const char *at = pattern.data(), *end = at + pattern.size(); at < end;) {
    const CodePoint code = DecodeUtf8(at, end);
    if (!code.valid) Wrong("it is not UTF-8");
    codes_.push_back(code.value);
    at += code.length;
  }
}

void RegexParser::Wrong(const std::string& why) const {
  const std::string shown = pattern_.size() > 80 ? pattern_.substr(0, 80) + "..." : pattern_;
  Fail(ErrorCode::kUsage, what_, ": the regular expression \"", shown, "\": character ", at_, ": ", why);
}

int32_t RegexParser::Add(RegexNode node) {
  budget_.State();
  nodes_.push_back(std::move(node));
  return static_cast<int32_t>(nodes_.size()) - 1;
}

bool RegexParser::Take(uint32_t code) {
  if (!more() || peek() != code) return false;
  ++at_;
  return true;
}

int32_t RegexParser::Parse() {
  const int32_t root = Alternatives(0);
  if (more()) Wrong("a \")\" that closes nothing");
  return root;
}

int32_t RegexParser::Alternatives(int depth) {
  if (depth > kDeepest) Wrong("groups are nested deeper than " + std::to_string(kDeepest));
  RegexNode choice{RegexNode::Kind::kChoice};
  choice.parts.push_back(Terms(depth));
  while (Take('|')) choice.parts.push_back(Terms(depth));
  return choice.parts.size() == 1 ? choice.parts[0] : Add(std::move(choice));
}

int32_t RegexParser::Terms(int depth) {
  RegexNode sequence{RegexNode::Kind::kSequence};
  while (more() && peek() != '|' && peek() != ')') sequence.parts.push_back(Quantified(Atom(depth)));
  return sequence.parts.size() == 1 ? sequence.parts[0] : Add(std::move(sequence));
}

int32_t RegexParser::Atom(int depth) {
  const uint32_t code = peek();
  switch (code) {
    case '^':
      ++at_;
      return Add({RegexNode::Kind::kBegin});
    case '$':
      ++at_;
      return Add({RegexNode::Kind::kEnd});
    case '(':
      ++at_;
      return Group(depth);
    case '.':
      ++at_;
      return Add({RegexNode::Kind::kSet, Complement(kLineEnds)});
    case '[':
      ++at_;
      return Add({RegexNode::Kind::kSet, Class()});
    case '\\':
      ++at_;
      return Add({RegexNode::Kind::kSet, Escape(false)});
    case '*':
    case '+':
    case '?':
      Wrong(std::string("\"") + static_cast<char>(code) + "\" follows nothing that could be repeated");
    default:
      ++at_;
      return Add({RegexNode::Kind::kSet, {{code, code}}});
  }
}

int32_t RegexParser::Group(int depth) {
  if (Take('?')) {
    if (Take('<')) {
      if (more() && (peek() == '=' || peek() == '!')) Wrong("looking behind is not supported");
      while (more() && peek() != '>') ++at_;
      if (!Take('>')) Wrong("the group's name has no end");
    } else if (!Take(':')) {
      if (more() && (peek() == '=' || peek() == '!')) Wrong("looking ahead is not supported");
      Wrong("this kind of group is not supported");
    }
  }
  const int32_t inner = Alternatives(depth + 1);
  if (!Take(')')) Wrong("a \"(\" is not closed");
  return inner;
}

// {n}, {n,} or {n,m}; false, and nothing taken, where it is none of these.
bool RegexParser::Counts(int64_t& min, int64_t& max) {
  const size_t begin = at_;
  const auto number = [&](int64_t& value) {
    const size_t first = at_;
    for (value = 0; more() && peek() >= '0' && peek() <= '9'; ++at_) {
      value = std::min<int64_t>(value * 10 + (peek() - '0'), int64_t{1} << 40);
    }
    return at_ > first;
  };
  ++at_;
  bool good = number(min);
  max = min;
  if (good && Take(',') && !number(max)) max = Rules::kNoLimit;
  good = good && Take('}');
  if (!good) at_ = begin;
  return good;
}

int32_t RegexParser::Quantified(int32_t atom) {
  int64_t min = 0, max = Rules::kNoLimit;
  for (bool first = true; more(); first = false) {
    if (peek() == '{') {
      if (!Counts(min, max)) return atom;
      if (max < min) Wrong("the counts are in the wrong order");
      if (min > kMostRepeats || (max != Rules::kNoLimit && max > kMostRepeats)) {
        Wrong("more than " + std::to_string(kMostRepeats) + " repeats are not supported");
      }
    } else if (Take('*')) {
      min = 0, max = Rules::kNoLimit;
    } else if (Take('+')) {
      min = 1, max = Rules::kNoLimit;
    } else if (Take('?')) {
      min = 0, max = 1;
    } else {
      return atom;
    }
    if (!first) Wrong("a quantifier follows another");
    if (node(atom).kind == RegexNode::Kind::kBegin || node(atom).kind == RegexNode::Kind::kEnd) {
      Wrong("an anchor cannot be repeated");
    }
    Take('?');  // as few as possible: the same texts
    RegexNode repeat{RegexNode::Kind::kRepeat};
    repeat.parts = {atom};
    repeat.min = min;
    repeat.max = max;
    atom = Add(std::move(repeat));
  }
  return atom;
}

CodeSet RegexParser::Class() {
  const bool negated = Take('^');
  CodeSet set;
  const auto one = [&] {
    if (!more()) Wrong("a \"[\" is not closed");
    const uint32_t code = codes_[at_++];
    return code == '\\' ? Escape(true) : CodeSet{{code, code}};
  };
  while (true) {
    if (!more()) Wrong("a \"[\" is not closed");
    if (Take(']')) break;
    budget_.Step();
    const CodeSet low = one();
    const bool range = at_ + 1 < codes_.size() && peek() == '-' && codes_[at_ + 1] != ']';
    if (!range) {
      set.insert(set.end(), low.begin(), low.end());
      continue;
    }
    ++at_;
    const CodeSet high = one();
    const auto single = [](const CodeSet& s) { return s.size() == 1 && s[0].lo == s[0].hi; };
    if (!single(low) || !single(high)) Wrong("a range in [] goes from one character to another");
    if (low[0].lo > high[0].lo) Wrong("a range in [] is in the wrong order");
    set.push_back({low[0].lo, high[0].lo});
  }
  set = Normalized(std::move(set));
  return negated ? Complement(set) : set;
}

uint32_t RegexParser::Hex(int digits) {
  uint32_t value = 0;
  for (int i = 0; i < digits; ++i) {
    const int digit = more() ? HexDigit(peek()) : -1;
    if (digit < 0) Wrong("hexadecimal digits are missing");
    value = value * 16 + static_cast<uint32_t>(digit);
    ++at_;
  }
  return value;
}

CodeSet RegexParser::Property(bool negated) {
  if (!Take('{')) Wrong("\\p is not followed by {...}");
  std::string name;
  while (more() && peek() != '}') AppendUtf8(name, codes_[at_++]);
  if (!Take('}')) Wrong("\\p{ is not closed");
  CodeSet set;
  if (name == "L" || name == "Letter") {
    set = SetOf(CharClass::kLetter);
  } else if (name == "N" || name == "Number") {
    set = SetOf(CharClass::kNumber);
  } else if (name != "Any") {
    Wrong("\\p{" + name.substr(0, 30) + "} is not supported; there are L, Letter, N, Number and Any");
  } else {
    set = Complement({});
  }
  return negated ? Complement(set) : set;
}

CodeSet RegexParser::Escape(bool in_class) {
  if (!more()) Wrong("a \"\\\" ends it");
  const uint32_t code = codes_[at_++];
  const auto single = [](uint32_t value) { return CodeSet{{value, value}}; };
  switch (code) {
    case 'd':
      return kDigits;
    case 'D':
      return Complement(kDigits);
    case 'w':
      return kWord;
    case 'W':
      return Complement(kWord);
    case 's':
      return kSpace;
    case 'S':
      return Complement(kSpace);
    case 't':
      return single('\t');
    case 'n':
      return single('\n');
    case 'r':
      return single('\r');
    case 'v':
      return single('\v');
    case 'f':
      return single('\f');
    case 'p':
      return Property(false);
    case 'P':
      return Property(true);
    case 'x':
      return single(Hex(2));
    case 'c': {
      const uint32_t letter = more() ? codes_[at_++] : 0;
      if (!((letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z')))
        Wrong("\\c is followed by no letter");
      return single(letter % 32);
    }
    case 'u': {
      if (Take('{')) {
        uint32_t value = 0;
        size_t digits = 0;
        for (; more() && HexDigit(peek()) >= 0 && value <= 0x10FFFF; ++digits) value = value * 16 + Hex(1);
        if (digits == 0 || value > 0x10FFFF || !Take('}')) Wrong("\\u{...} is no code point");
        return single(value);
      }
      const uint32_t high = Hex(4);
      if (high < 0xD800 || high > 0xDFFF) return single(high);
      if (high > 0xDBFF || !Take('\\') || !Take('u')) Wrong("half a surrogate pair");
      const uint32_t low = Hex(4);
      if (low < 0xDC00 || low > 0xDFFF) Wrong("half a surrogate pair");
      return single(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00));
    }
    case 'b':
      if (in_class) return single('\b');
      Wrong("\\b is not supported");
    case 'B':
    case 'k':
      Wrong(std::string("\\") + static_cast<char>(code) + " is not supported");
    case '0':
      if (more() && peek() >= '0' && peek() <= '9') Wrong("octal escapes are not supported");
      return single(0);
    default:
      if (code >= '1' && code <= '9') Wrong("references back to a group are not supported");
      if ((code >= 'a' && code <= 'z') || (code >= 'A' && code <= 'Z')) {
        Wrong(std::string("\\") + static_cast<char>(code) + " is no escape");
      }
      return single(code);
  }
}

}  // namespace cambium
