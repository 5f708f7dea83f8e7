#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cambium/min_cover.h"

namespace cambium {

// A word is a longest run of ASCII letters, digits, '_' and non-ASCII characters other than the punctuation and spaces
// of U+0080..U+00BF (but for the letters U+00AA, U+00B5, U+00BA), U+2000..U+207F and U+3000..U+303F. Bytes that are not
// UTF-8 belong to words.
inline bool IsAsciiWordByte(unsigned char c) {
  return static_cast<unsigned>((c | 0x20) - 'a') < 26 || static_cast<unsigned>(c - '0') < 10 || c == '_';
}
// The bytes of a non-ASCII separator that begins at text[at], or 0.
inline int64_t WideSeparator(std::string_view text, int64_t at) {
  const auto byte = [&](int64_t i) {
    return i < static_cast<int64_t>(text.size()) ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const unsigned a = byte(at);
  if (a < 0xC2 || a > 0xE3) return 0;
  const unsigned b = byte(at + 1);
  if (a == 0xC2) return b >= 0x80 && b <= 0xBF && b != 0xAA && b != 0xB5 && b != 0xBA ? 2 : 0;
  const bool punctuation = (a == 0xE2 && (b == 0x80 || b == 0x81)) || (a == 0xE3 && b == 0x80);
  return punctuation && byte(at + 2) >> 6 == 2 ? 3 : 0;
}
// The end of the word that begins at text[at]; `at` itself where none does.
inline int64_t WordEnd(std::string_view text, int64_t at) {
  const int64_t size = text.size();
  for (; at < size; ++at) {
    const unsigned char c = text[at];
    if (IsAsciiWordByte(c)) continue;
    if (c < 0x80 || WideSeparator(text, at) > 0) break;
  }
  return at;
}
// Whether no word reaches over text[at] from the left.
inline bool StartsWord(std::string_view text, int64_t at) {
  if (at == 0) return true;
  const unsigned char before = text[at - 1];
  if (before < 0x80) return !IsAsciiWordByte(before);
  return (at >= 2 && WideSeparator(text, at - 2) == 2) || (at >= 3 && WideSeparator(text, at - 3) == 3);
}
// Calls f(begin, end) for every word, in order.
template <class F>
void ForEachWord(std::string_view text, const F& f) {
  const int64_t size = text.size();
  for (int64_t at = 0; at < size;) {
    const int64_t end = WordEnd(text, at);
    if (end > at) {
      f(at, end);
      at = end;
    } else {
      const int64_t wide = WideSeparator(text, at);
      at += wide > 0 ? wide : 1;
    }
  }
}

// Lower case by simple Unicode mapping, character by character; bytes that are not UTF-8 stay, and so do the three
// characters whose lower case is ASCII (ASCII letters match ASCII letters only).
std::string LowerCase(std::string_view text);
char32_t LowerCase(char32_t point);

// The sought words, numbered; a repeated one is one class that needs as many copies.
class WordMatcher {
 public:
  // kUsage when there are none or when one is not exactly one word.
  WordMatcher(std::span<const std::string> words, bool ignore_case);

  // The class of `word`, or -1.
  int64_t Find(std::string_view word) const {
    const uint64_t length = word.size() < 63 ? word.size() : 63;
    const unsigned char first = word.empty() ? 0 : word[0];
    if ((lengths_[first] >> length & 1) == 0) return -1;
    return FindSlowly(word);
  }
  std::span<const int64_t> need() const { return need_; }
  const std::vector<std::string>& classes() const { return classes_; }  // lower case where case is ignored
  bool ignore_case() const { return ignore_case_; }

 private:
  int64_t FindSlowly(std::string_view word) const;

  bool ignore_case_;
  std::vector<std::string> classes_;
  std::vector<int64_t> need_;
  std::array<uint64_t, 256> lengths_{};  // by first byte: the lengths to look at, bit 63 for all from there
};

// Words [begin, end) in bytes of the text.
struct WordWindow {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t words = 0;  // from the first to the last, all counted
  bool operator==(const WordWindow&) const = default;
};

// Calls report(WordWindow) for every minimal window of words, in order. O(bytes of text), memory O(sought words).
template <class F>
void MinimalWordWindows(std::string_view text, const WordMatcher& sought, const F& report) {
  CoverList list(sought.need());
  int64_t index = 0;
  ForEachWord(text, [&](int64_t begin, int64_t end) {
    const int64_t c = sought.Find(text.substr(begin, end - begin));
    if (c >= 0 && list.Push(c, index, begin)) report(WordWindow{list.begin_tag(), end, index + 1 - list.begin()});
    ++index;
  });
}

// The window of fewest words, the leftmost of equals.
std::optional<WordWindow> MinCoverWords(std::string_view text, std::span<const std::string> words, bool ignore_case);

}  // namespace cambium
