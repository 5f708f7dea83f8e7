#include "io/jinja_lexer.h"

#include <algorithm>

#include "cambium/error.h"
#include "io/unicode.h"

namespace cambium::jinja {
namespace {

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// One kind of line end, and none at the end of the template.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      out += '\n';
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  std::vector<Token> Run() {
    while (at_ < source_.size()) LexData();
    Emit(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  bool Have(std::string_view text, size_t at) const { return source_.compare(at, text.size(), text) == 0; }
  bool Have(std::string_view text) const { return Have(text, at_); }

  template <class... Parts>
  [[noreturn]] void Bad(const Parts&... parts) const {
    Fail(ErrorCode::kData, "chat template: line ", line_, ": ", parts...);
  }

  void Emit(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  void Advance(size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + at_, source_.begin() + to, '\n'));
    at_ = to;
  }

  void SkipSpaces() {
    size_t to = at_;
    while (to < source_.size() && IsSpace(source_[to])) ++to;
    Advance(to);
  }

  // After a tag: `strip` eats all white space, else `trim` one newline. Tells the next data whether it starts a line.
  void EndTag(bool strip, bool trim) {
    const size_t begin = at_;
    if (strip) {
      SkipSpaces();
    } else if (trim && Have("\n")) {
      Advance(at_ + 1);
    }
    line_start_ = at_ > begin && source_[at_ - 1] == '\n';
  }

  void EmitData(size_t end, char sign, bool is_print) {
    std::string_view text(source_.data() + at_, end - at_);
    if (sign == '-') {
      while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
    } else if (sign != '+' && !is_print) {
      const size_t newline = text.rfind('\n');
      const size_t start = newline == text.npos ? 0 : newline + 1;
      if ((start > 0 || line_start_) && std::all_of(text.begin() + start, text.end(), IsSpace)) {
        text = text.substr(0, start);
      }
    }
    if (!text.empty()) Emit(TokenKind::kData, std::string(text));
    Advance(end);
  }

  void LexData() {
    size_t open = at_;
    while (true) {
      open = source_.find('{', open);
      if (open == source_.npos) {
        Emit(TokenKind::kData, source_.substr(at_));
        Advance(source_.size());
        return;
      }
      if (Have("{{", open) || Have("{%", open) || Have("{#", open)) break;
      ++open;
    }
    const char tag = source_[open + 1];
    const char sign = open + 2 < source_.size() ? source_[open + 2] : ' ';
    const bool has_sign = sign == '-' || sign == '+';
    EmitData(open, has_sign ? sign : ' ', tag == '{');
    Advance(open + 2 + (has_sign ? 1 : 0));
    if (tag == '#') {
      const size_t close = source_.find("#}", at_);
      if (close == source_.npos) Bad("a comment is not closed");
      const char before = close > at_ ? source_[close - 1] : ' ';
      Advance(close + 2);
      EndTag(before == '-', before != '+');
    } else if (tag == '%' && LexRaw()) {
      return;
    } else {
      Emit(tag == '%' ? TokenKind::kBlockBegin : TokenKind::kPrintBegin, "");
      LexTag(tag == '%');
    }
  }

  // "raw %}" has just been reached inside a block tag: everything up to endraw is data.
  bool LexRaw() {
    size_t at = at_;
    const auto skip = [&](size_t i) {
      while (i < source_.size() && IsSpace(source_[i])) ++i;
      return i;
    };
    at = skip(at);
    if (!Have("raw", at)) return false;
    at = skip(at + 3);
    const bool strip = Have("-%}", at);
    if (!strip && !Have("%}", at)) return false;
    Advance(at + (strip ? 3 : 2));
    EndTag(strip, false);
    for (size_t open = source_.find("{%", at_); open != source_.npos; open = source_.find("{%", open + 2)) {
      const char sign = open + 2 < source_.size() ? source_[open + 2] : ' ';
      const bool has_sign = sign == '-' || sign == '+';
      size_t close = skip(open + 2 + (has_sign ? 1 : 0));
      if (!Have("endraw", close)) continue;
      close = skip(close + 6);
      const char end_sign = close < source_.size() ? source_[close] : ' ';
      const bool has_end_sign = end_sign == '-' || end_sign == '+';
      if (has_end_sign) ++close;
      if (!Have("%}", close)) continue;
      EmitData(open, has_sign ? sign : ' ', false);
      Advance(close + 2);
      EndTag(end_sign == '-', end_sign != '+');
      return true;
    }
    Bad("a raw block is not closed");
  }

  void LexTag(bool block) {
    const std::string_view close = block ? "%}" : "}}";
    int open_brackets = 0;
    while (true) {
      SkipSpaces();
      if (at_ >= source_.size()) Bad("a tag is not closed");
      if (open_brackets == 0) {
        const char sign = source_[at_];
        const bool signed_close = (sign == '-' || (block && sign == '+')) && Have(close, at_ + 1);
        if (signed_close || Have(close)) {
          Emit(block ? TokenKind::kBlockEnd : TokenKind::kPrintEnd, "");
          Advance(at_ + close.size() + (signed_close ? 1 : 0));
          EndTag(signed_close && sign == '-', block && !signed_close);
          return;
        }
      }
      const char c = source_[at_];
      if (c == '"' || c == '\'') {
        LexString(c);
      } else if (IsDigit(c)) {
        LexNumber();
      } else if (IsNameStart(c)) {
        size_t end = at_;
        while (end < source_.size() && (IsNameStart(source_[end]) || IsDigit(source_[end]))) ++end;
        Emit(TokenKind::kName, source_.substr(at_, end - at_));
        Advance(end);
      } else {
        LexOperator(open_brackets);
      }
    }
  }

  void LexOperator(int& open_brackets) {
    for (std::string_view two : {"==", "!=", ">=", "<=", "//", "**"}) {
      if (Have(two)) {
        Emit(TokenKind::kOperator, std::string(two));
        Advance(at_ + 2);
        return;
      }
    }
    const char c = source_[at_];
    if (std::string_view("+-*/%~[](){}<>=.:|,").find(c) == std::string_view::npos) {
      Bad("unexpected character ", c < 0x20 || c > 0x7E ? '?' : c);
    }
    if (c == '(' || c == '[' || c == '{') ++open_brackets;
    if (c == ')' || c == ']' || c == '}') {
      if (--open_brackets < 0) Bad("unexpected '", c, "'");
    }
    Emit(TokenKind::kOperator, std::string(1, c));
    Advance(at_ + 1);
  }

  void LexNumber() {
    std::string text;
    size_t at = at_;
    bool is_float = false;
    const auto digits = [&] {
      while (at < source_.size() && (IsDigit(source_[at]) || source_[at] == '_')) {
        if (source_[at] != '_') text += source_[at];
        ++at;
      }
    };
    digits();
    if (at + 1 < source_.size() && source_[at] == '.' && IsDigit(source_[at + 1])) {
      is_float = true;
      text += source_[at++];
      digits();
    }
    if (at < source_.size() && (source_[at] == 'e' || source_[at] == 'E')) {
      size_t exponent = at + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) ++exponent;
      if (exponent < source_.size() && IsDigit(source_[exponent])) {
        is_float = true;
        text += source_.substr(at, exponent - at);
        at = exponent;
        digits();
      }
    }
    if (text.size() > 40) Bad("a number of ", text.size(), " digits");
    Emit(is_float ? TokenKind::kFloat : TokenKind::kInteger, text);
    Advance(at);
  }

  uint32_t Hex(size_t at, int digits) const {
    uint32_t value = 0;
    for (int i = 0; i < digits; ++i) {
      const char c = at + i < source_.size() ? source_[at + i] : ' ';
      const int digit = IsDigit(c)             ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) Bad("a string has a broken escape");
      value = value * 16 + digit;
    }
    return value;
  }

  void LexString(char quote) {
    std::string text;
    size_t at = at_ + 1;
    for (;; ++at) {
      if (at >= source_.size()) Bad("a string is not closed");
      const char c = source_[at];
      if (c == quote) break;
      if (c != '\\') {
        text += c;
        continue;
      }
      if (++at >= source_.size()) Bad("a string is not closed");
      constexpr std::string_view kFrom = "ntrbfva0\\'\"", kTo("\n\t\r\b\f\v\a\0\\'\"", 11);
      const char escape = source_[at];
      if (const size_t i = kFrom.find(escape); i != kFrom.npos) {
        text += kTo[i];
      } else if (escape == 'x' || escape == 'u' || escape == 'U') {
        const int digits = escape == 'x' ? 2 : escape == 'u' ? 4 : 8;
        const uint32_t value = Hex(at + 1, digits);
        if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) Bad("a string has a broken escape");
        AppendUtf8(text, value);
        at += digits;
      } else if (escape != '\n') {
        text += '\\';
        text += escape;
      }
    }
    Emit(TokenKind::kString, std::move(text));
    Advance(at + 1);
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_start_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> Lex(std::string_view source) { return Lexer(NormalizeNewlines(source)).Run(); }

}  // namespace cambium::jinja
