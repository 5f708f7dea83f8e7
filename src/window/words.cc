#include "window/words.h"

#include <utf8proc.h>

#include <algorithm>

namespace cambium {

char32_t LowerCase(char32_t point) {
  if (point < 0x80) return point - U'A' < 26 ? point + 32 : point;
  const auto lower = static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(point)));
  return lower < 0x80 ? point : lower;
}

std::string LowerCase(std::string_view text) {
  std::string lower;
  lower.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at);
    utf8proc_int32_t point;
    const auto size = utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(text.size() - at), &point);
    if (size <= 0) {
      lower += text[at++];
      continue;
    }
    utf8proc_uint8_t encoded[4];
    const auto length = utf8proc_encode_char(static_cast<utf8proc_int32_t>(LowerCase(char32_t(point))), encoded);
    lower.append(reinterpret_cast<const char*>(encoded), length);
    at += size;
  }
  return lower;
}

WordMatcher::WordMatcher(std::span<const std::string> words, bool ignore_case) : ignore_case_(ignore_case) {
  if (words.empty()) Fail(ErrorCode::kUsage, "no term is given");
  for (const std::string& given : words) {
    if (given.empty() || WordEnd(given, 0) != static_cast<int64_t>(given.size())) {
      Fail(ErrorCode::kUsage, "term \"", given, "\" is not one word (letters, digits, '_')");
    }
    const std::string word = ignore_case ? LowerCase(given) : given;
    const auto found = std::find(classes_.begin(), classes_.end(), word);
    if (found != classes_.end()) {
      ++need_[found - classes_.begin()];
      continue;
    }
    classes_.push_back(word);
    need_.push_back(1);
    if (!ignore_case) {
      lengths_[static_cast<unsigned char>(word[0])] |= uint64_t{1} << std::min<size_t>(word.size(), 63);
      continue;
    }
    // Another case of a non-ASCII character may have another length, and another first byte.
    const bool ascii = std::all_of(word.begin(), word.end(), [](char c) { return static_cast<signed char>(c) >= 0; });
    const uint64_t length = ascii ? uint64_t{1} << std::min<size_t>(word.size(), 63) : ~uint64_t{0};
    const auto first = static_cast<unsigned char>(word[0]);
    if (first >= 0x80) {
      for (int c = 0x80; c < 0x100; ++c) lengths_[c] |= length;
    } else {
      lengths_[first] |= length;
      if (first >= 'a' && first <= 'z') lengths_[first - 32] |= length;
    }
  }
}

int64_t WordMatcher::FindSlowly(std::string_view word) const {
  if (ignore_case_ && std::any_of(word.begin(), word.end(), [](char c) { return static_cast<signed char>(c) < 0; })) {
    const auto found = std::find(classes_.begin(), classes_.end(), LowerCase(word));
    return found == classes_.end() ? -1 : found - classes_.begin();
  }
  for (size_t c = 0; c < classes_.size(); ++c) {
    if (classes_[c].size() != word.size()) continue;
    const auto same = [&](char have, char want) {
      return have == want || (ignore_case_ && have >= 'A' && have <= 'Z' && have + 32 == want);
    };
    if (std::equal(word.begin(), word.end(), classes_[c].begin(), same)) return static_cast<int64_t>(c);
  }
  return -1;
}

std::optional<WordWindow> MinCoverWords(std::string_view text, std::span<const std::string> words, bool ignore_case) {
  std::optional<WordWindow> best;
  MinimalWordWindows(text, WordMatcher(words, ignore_case), [&](const WordWindow& w) {
    if (!best || w.words < best->words) best = w;
  });
  return best;
}

}  // namespace cambium
