#include "io/pretokenizer.h"

#include <algorithm>
#include <utility>

#include "cambium/error.h"
#include "io/pretokenizer_regex.h"
#include "io/unicode.h"

namespace cambium {
namespace {

constexpr const char* kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kSpacePattern = R"( [^ ]*|[^ ]+)";
constexpr const char* kDigitPattern = R"(\p{N})";
constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Mistral's tekken and OpenAI's o200k tell upper from lower case.
constexpr const char* kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kO200kPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// Past the run of characters of class `wanted` that starts at `at`.
inline const char* SkipClass(const char* at, const char* end, CharClass wanted) {
  while (at < end) {
    const CodePoint c = DecodeUtf8(at, end);
    if (ClassOf(c) != wanted) break;
    at += c.length;
  }
  return at;
}

// Bytes of the contraction at `at` (which is an apostrophe), 0 if none: 's 't 're 've 'm 'll 'd.
template <bool kIgnoreCase>
inline int Contraction(const char* at, const char* end) {
  const auto letter = [&](int i) -> char {
    if (at + i >= end) return 0;
    const char c = at[i];
    return kIgnoreCase && c >= 'A' && c <= 'Z' ? c + 32 : c;
  };
  switch (letter(1)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return letter(2) == 'e' ? 3 : 0;
    case 'l':
      return letter(2) == 'l' ? 3 : 0;
    case '\xC5':  // U+017F, the long s, folds to s
      return kIgnoreCase && letter(2) == '\xBF' ? 3 : 0;
    default:
      return 0;
  }
}

struct SpaceRun {
  const char* end;
  const char* last;           // where its last character starts
  const char* after_newline;  // past its last \r or \n, null if none
};

inline SpaceRun ScanSpaces(const char* at, const char* end) {
  SpaceRun run{at, at, nullptr};
  while (run.end < end) {
    const CodePoint c = DecodeUtf8(run.end, end);
    if (ClassOf(c) != CharClass::kSpace) break;
    run.last = run.end;
    run.end += c.length;
    if (c.value == '\n' || c.value == '\r') run.after_newline = run.end;
  }
  return run;
}

// End of the word at `at` under kGpt2Pattern. With kDigits the text has first been cut around every number, so that a
// number ends the text before it.
template <bool kDigits>
const char* NextGpt2(const char* at, const char* end) {
  if (*at == '\'') {
    if (const int length = Contraction<false>(at, end)) return at + length;
  }
  const char* body = *at == ' ' && at + 1 < end ? at + 1 : at;
  CodePoint c = DecodeUtf8(body, end);
  CharClass kind = ClassOf(c);
  if (kDigits && kind == CharClass::kNumber) return body == at ? at + c.length : body;
  if (kind != CharClass::kSpace) return SkipClass(body + c.length, end, kind);
  const SpaceRun run = ScanSpaces(at, end);
  if (run.end == end || run.last == at) return run.end;
  if (kDigits && ClassOf(DecodeUtf8(run.end, end)) == CharClass::kNumber) return run.end;
  return run.last;
}

// End of the word at `at` under kLlama3Pattern (kMaxDigits 3) or kQwen2Pattern (1).
template <int kMaxDigits>
const char* NextLlama3(const char* at, const char* end) {
  if (*at == '\'') {
    if (const int length = Contraction<true>(at, end)) return at + length;
  }
  const CodePoint first = DecodeUtf8(at, end);
  const CharClass kind = ClassOf(first);
  const char* next = at + first.length;
  if (kind == CharClass::kLetter) return SkipClass(next, end, CharClass::kLetter);
  if (kind == CharClass::kNumber) {
    for (int digits = 1; digits < kMaxDigits && next < end; ++digits) {
      const CodePoint c = DecodeUtf8(next, end);
      if (ClassOf(c) != CharClass::kNumber) break;
      next += c.length;
    }
    return next;
  }
  const CodePoint second = next < end ? DecodeUtf8(next, end) : CodePoint{0, 0, true};
  const CharClass second_kind = next < end ? ClassOf(second) : CharClass::kSpace;
  if (second_kind == CharClass::kLetter && *at != '\r' && *at != '\n') {
    return SkipClass(next + second.length, end, CharClass::kLetter);
  }
  if (kind == CharClass::kOther || (*at == ' ' && second_kind == CharClass::kOther)) {
    const char* stop = SkipClass(kind == CharClass::kOther ? next : next + second.length, end, CharClass::kOther);
    while (stop < end && (*stop == '\r' || *stop == '\n')) ++stop;
    return stop;
  }
  const SpaceRun run = ScanSpaces(at, end);
  if (run.after_newline != nullptr) return run.after_newline;
  return run.end == end || run.last == at ? run.end : run.last;
}

template <class Next>
void Scan(std::string_view text, std::vector<Span>& words, Next next) {
  const char* begin = text.data();
  const char* end = begin + text.size();
  for (const char* at = begin; at < end;) {
    const char* stop = next(at, end);
    words.push_back({static_cast<uint32_t>(at - begin), static_cast<uint32_t>(stop - begin)});
    at = stop;
  }
}

bool IsSteps(const std::vector<SplitStep>& steps, std::initializer_list<std::string_view> patterns) {
  if (steps.size() != patterns.size()) return false;
  auto step = steps.begin();
  for (std::string_view pattern : patterns) {
    if (step->drop_gaps || step->pattern != pattern) return false;
    ++step;
  }
  return true;
}

}  // namespace

struct PreTokenizer::Regex : SplitRegex {
  using SplitRegex::SplitRegex;
};

PreTokenizer::PreTokenizer() = default;
PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;

std::vector<SplitStep> PreTokenizer::StepsOf(std::string_view name) {
  const auto is = [&](std::initializer_list<std::string_view> names) {
    for (std::string_view n : names) {
      if (name == n) return true;
    }
    return false;
  };
  if (is({"", "default", "gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais"})) return {{kGpt2Pattern}};
  if (is({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})) {
    return {{kDigitPattern}, {kGpt2Pattern}};
  }
  if (is({"llama3", "llama-v3", "llama-bpe", "smaug-bpe", "dbrx", "falcon3", "pixtral"})) return {{kLlama3Pattern}};
  if (is({"qwen2", "qwen2.5", "qwen3", "stablelm2", "deepseek-r1-qwen"})) return {{kQwen2Pattern}};
  if (is({"tekken"})) return {{kTekkenPattern}};
  if (is({"gpt-4o", "o200k", "llama4"})) return {{kO200kPattern}};
  Fail(ErrorCode::kData, "tokenizer: pre-tokeniser \"", name, "\" is not known");
}

SplitStep PreTokenizer::AtSpaces() { return {kSpacePattern}; }

PreTokenizer PreTokenizer::FromSteps(const std::vector<SplitStep>& steps) {
  PreTokenizer result;
  if (steps.empty()) {
    result.kind_ = Kind::kWhole;
  } else if (IsSteps(steps, {kSpacePattern})) {
    result.kind_ = Kind::kSpaces;
  } else if (IsSteps(steps, {kGpt2Pattern})) {
    result.kind_ = Kind::kGpt2;
  } else if (IsSteps(steps, {kDigitPattern, kGpt2Pattern})) {
    result.kind_ = Kind::kDigitsGpt2;
  } else if (IsSteps(steps, {kLlama3Pattern})) {
    result.kind_ = Kind::kLlama3;
  } else if (IsSteps(steps, {kQwen2Pattern})) {
    result.kind_ = Kind::kQwen2;
  } else {
    result.kind_ = Kind::kRegex;
    for (const SplitStep& step : steps) result.regexes_.push_back(std::make_unique<Regex>(step));
  }
  return result;
}

void PreTokenizer::Split(std::string_view text, std::vector<Span>& words) const {
  switch (kind_) {
    case Kind::kWhole:
      if (!text.empty()) words.push_back({0, static_cast<uint32_t>(text.size())});
      return;
    case Kind::kSpaces:
      return Scan(text, words, [](const char* at, const char* end) { return std::find(at + 1, end, ' '); });
    case Kind::kGpt2:
      return Scan(text, words, NextGpt2<false>);
    case Kind::kDigitsGpt2:
      return Scan(text, words, NextGpt2<true>);
    case Kind::kLlama3:
      return Scan(text, words, NextLlama3<3>);
    case Kind::kQwen2:
      return Scan(text, words, NextLlama3<1>);
    case Kind::kRegex:
      break;
  }
  std::vector<Span> pieces{{0, static_cast<uint32_t>(text.size())}};
  std::vector<Span> cut;
  for (const auto& regex : regexes_) {
    cut.clear();
    regex->Cut(text, pieces, cut);
    pieces.swap(cut);
  }
  for (const Span& piece : pieces) {
    if (piece.end > piece.begin) words.push_back(piece);
  }
}

}  // namespace cambium
