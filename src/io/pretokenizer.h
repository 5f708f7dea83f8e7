#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace cambium {

// A word of the text: bytes [begin, end).
struct Span {
  uint32_t begin;
  uint32_t end;
};

// One step that cuts text: every match of `pattern` becomes a word of its own; what lies between stays a word too,
// unless `drop_gaps`.
struct SplitStep {
  std::string pattern;  // PCRE2 syntax, UTF and UCP
  bool drop_gaps = false;
};

// Cuts text into words before byte-pair encoding. The patterns of the families we know run as hand-written scanners,
// linear in the text; any other pattern runs in PCRE2 with match, memory and time limits.
class PreTokenizer {
 public:
  PreTokenizer();  // does not cut
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;

  // Cuts before every space: Metaspace with `split`.
  static SplitStep AtSpaces();
  // The steps behind GGUF's `tokenizer.ggml.pre`; kData for a name we do not know.
  static std::vector<SplitStep> StepsOf(std::string_view name);
  // kData when a pattern does not compile.
  static PreTokenizer FromSteps(const std::vector<SplitStep>& steps);

  // Appends the words of `text` (< 4 GiB) to `words`. Bytes that are not UTF-8 count as characters that are neither
  // letter, number nor space; the patterns that PCRE2 runs match none of them. kData when a pattern exceeds its limits
  // on this text.
  void Split(std::string_view text, std::vector<Span>& words) const;

 private:
  enum class Kind { kWhole, kSpaces, kGpt2, kDigitsGpt2, kLlama3, kQwen2, kRegex };
  struct Regex;

  Kind kind_ = Kind::kWhole;
  std::vector<std::unique_ptr<Regex>> regexes_;
};

}  // namespace cambium
