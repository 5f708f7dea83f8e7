#include "grammar/gbnf.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>

#include "cambium/error.h"
#include "io/unicode.h"

namespace cambium {
namespace {

constexpr int kDeepest = 200;
constexpr int64_t kMostRepeats = 1'000'000;

class GbnfParser {
 public:
  GbnfParser(std::string_view text, Rules& rules) : text_(text), rules_(rules) {}

  Rules::Expr Parse() {
    Space(true);
    while (more()) {
      const size_t begin = at_;
      const std::string name = Name();
      Rule& rule = Named(name);
      Space(false);
      if (text_.substr(at_, 3) != "::=") Wrong("expected \"::=\" behind the rule's name");
      at_ += 3;
      Space(true);
      const Rules::Expr body = Alternatives(0);
      if (more() && text_[at_] != '\n' && text_[at_] != '\r') Wrong("unexpected character");
      if (rule.defined) {
        at_ = begin;
        Wrong("the rule \"" + name + "\" is defined twice");
      }
      rule.defined = true;
      rules_.Define(rule.rule, body);
      Space(true);
    }
    for (const auto& [name, rule] : named_) {
      if (rule.defined) continue;
      at_ = rule.first;
      Wrong("the rule \"" + name + "\" is not defined");
    }
    const auto root = named_.find("root");
    if (root == named_.end()) Fail(ErrorCode::kUsage, "grammar: there is no rule \"root\"");
    return rules_.Call(root->second.rule);
  }

 private:
  struct Rule {
    Rules::Rule rule;
    size_t first;  // where it is named first
    bool defined = false;
  };

  bool more() const { return at_ < text_.size(); }
  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }

  [[noreturn]] void Wrong(const std::string& why) const {
    const std::string_view before = text_.substr(0, at_);
    const auto line = 1 + std::ranges::count(before, '\n');
    const size_t newline = before.rfind('\n');
    const size_t column = newline == std::string_view::npos ? at_ + 1 : at_ - newline;
    Fail(ErrorCode::kUsage, "grammar: line ", line, ", column ", column, ": ", why);
  }

  // Blanks and comments; line ends where a rule may go on behind them.
  void Space(bool lines) {
    while (more()) {
      if (peek() == '#') {
        while (more() && peek() != '\n' && peek() != '\r') ++at_;
      } else if (peek() == ' ' || peek() == '\t' || (lines && (peek() == '\n' || peek() == '\r'))) {
        ++at_;
      } else {
        return;
      }
    }
  }

  static bool InName(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
  }
  std::string Name() {
    const size_t begin = at_;
    while (more() && InName(peek())) ++at_;
    if (at_ == begin) Wrong("expected a rule's name");
    return std::string(text_.substr(begin, at_ - begin));
  }
  Rule& Named(const std::string& name) {
    const auto found = named_.find(name);
    if (found != named_.end()) return found->second;
    return named_.emplace(name, Rule{rules_.NewRule(name), at_}).first->second;
  }

  Rules::Expr Alternatives(int depth) {
    if (depth > kDeepest) Wrong("groups are nested deeper than " + std::to_string(kDeepest));
    std::vector<Rules::Expr> parts = {Sequence(depth)};
    while (peek() == '|') {
      ++at_;
      Space(true);
      parts.push_back(Sequence(depth));
    }
    return rules_.Choice(std::move(parts));
  }

  Rules::Expr Sequence(int depth) {
    std::vector<Rules::Expr> parts;
    while (const std::optional<Rules::Expr> item = Item(depth)) {
      Rules::Expr repeated = *item;
      while (const auto counts = Counts()) {
        repeated = rules_.Repeat(repeated, counts->first, counts->second);
        Space(depth > 0);
      }
      parts.push_back(repeated);
    }
    return rules_.Sequence(std::move(parts));
  }

  std::optional<std::pair<int64_t, int64_t>> Counts() {
    const char c = peek();
    if (c == '*' || c == '+' || c == '?') {
      ++at_;
      return std::pair(int64_t{c == '+' ? 1 : 0}, c == '?' ? int64_t{1} : Rules::kNoLimit);
    }
    if (c != '{') return std::nullopt;
    ++at_;
    Space(true);
    const int64_t min = Number();
    int64_t max = min;
    Space(true);
    if (peek() == ',') {
      ++at_;
      Space(true);
      max = peek() == '}' ? Rules::kNoLimit : Number();
      Space(true);
    }
    if (peek() != '}') Wrong("expected \"}\"");
    if (max < min) Wrong("the counts are in the wrong order");
    ++at_;
    return std::pair(min, max);
  }

  int64_t Number() {
    int64_t value = 0;
    const size_t begin = at_;
    for (; peek() >= '0' && peek() <= '9'; ++at_) {
      value = value * 10 + (peek() - '0');
      if (value > kMostRepeats) Wrong("more than " + std::to_string(kMostRepeats) + " repeats are not supported");
    }
    if (at_ == begin) Wrong("expected a number");
    return value;
  }

  std::optional<Rules::Expr> Item(int depth) {
    const char c = peek();
    Rules::Expr item = rules_.Empty();
    if (c == '"') {
      item = rules_.Text(Literal());
    } else if (c == '[') {
      item = Class();
    } else if (c == '.') {
      ++at_;
      item = rules_.CodePoints(Complement({}));
    } else if (c == '(') {
      ++at_;
      Space(true);
      item = Alternatives(depth + 1);
      if (peek() != ')') Wrong("expected \")\"");
      ++at_;
    } else if (c == '<') {
      Wrong("tokens written as <...> are not supported");
    } else if (more() && InName(c)) {
      // Behind a line's end, "name ::=" begins the next rule.
      const size_t begin = at_;
      const std::string name = Name();
      const size_t behind = at_;
      Space(false);
      if (text_.substr(at_, 3) == "::=") {
        at_ = begin;
        return std::nullopt;
      }
      at_ = begin;
      item = rules_.Call(Named(name).rule);
      at_ = behind;
    } else {
      return std::nullopt;
    }
    Space(depth > 0);
    return item;
  }

  uint32_t Character() {
    if (!more()) Wrong("it ends inside of quotes or brackets");
    if (peek() != '\\') {
      const CodePoint code = DecodeUtf8(text_.data() + at_, text_.data() + text_.size());
      if (!code.valid) Wrong("it is not UTF-8");
      at_ += static_cast<size_t>(code.length);
      return code.value;
    }
    const char escape = peek(1);
    at_ += 2;
    switch (escape) {
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case 'x':
        return Hex(2);
      case 'u':
        return Hex(4);
      case 'U':
        return Hex(8);
      case '"':
      case '\\':
      case '[':
      case ']':
      case '-':
      case '^':
      case '/':
        return static_cast<uint32_t>(escape);
      default:
        at_ -= 2;
        Wrong("an unknown escape");
    }
  }

  uint32_t Hex(int digits) {
    uint32_t value = 0;
    for (int i = 0; i < digits; ++i, ++at_) {
      const char c = peek();
      const bool digit = c >= '0' && c <= '9';
      if (!digit && !(c >= 'a' && c <= 'f') && !(c >= 'A' && c <= 'F')) Wrong("hexadecimal digits are missing");
      value = value * 16 + static_cast<uint32_t>(digit ? c - '0' : (c | 32) - 'a' + 10);
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) Wrong("no code point");
    return value;
  }

  std::string Literal() {
    ++at_;
    std::string text;
    while (peek() != '"') AppendUtf8(text, Character());
    ++at_;
    return text;
  }

  Rules::Expr Class() {
    ++at_;
    const bool negated = peek() == '^';
    if (negated) ++at_;
    CodeSet set;
    while (peek() != ']') {
      const uint32_t low = Character();
      uint32_t high = low;
      if (peek() == '-' && peek(1) != ']') {
        ++at_;
        high = Character();
        if (high < low) Wrong("a range in [] is in the wrong order");
      }
      set.push_back({low, high});
    }
    ++at_;
    set = Normalized(std::move(set));
    return rules_.CodePoints(negated ? Complement(set) : set);
  }

  std::string_view text_;
  Rules& rules_;
  size_t at_ = 0;
  std::map<std::string, Rule> named_;
};

}  // namespace

Rules::Expr CompileGbnf(std::string_view grammar, Rules& rules) { return GbnfParser(grammar, rules).Parse(); }

}  // namespace cambium
