#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "window/words.h"

namespace cambium {

// Bytes [begin, end) of corpus[document], from the start of one sought word to the end of another.
struct Passage {
  int64_t document = 0;
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Passage&) const = default;
};

struct PassageOptions {
  bool ignore_case = false;
  int64_t limit = 10;        // passages wanted
  int64_t within = 1 << 16;  // bytes; longer passages are not looked for
  int threads = 1;
};

// Finds sought words in text. Places where the first bytes of one may stand come from a vector filter: each of the
// first three bytes is looked up by its two halves in tables of 8 buckets (the "Teddy" scheme of Hyperscan, Wang et
// al., NSDI 2019), and the byte before must not be an ASCII word byte.
class WordFinder {
 public:
  explicit WordFinder(const WordMatcher& matcher);

  // Calls f(class, begin, end) for every sought word that begins in [from, to), in order.
  template <class F>
  void Find(std::string_view text, int64_t from, int64_t to, const F& f) const {
    std::array<uint32_t, kBlock> places;
    for (int64_t at = from; at < to; at += kBlock) {
      const int64_t count = Candidates(text, at, std::min<int64_t>(to, at + kBlock), places.data());
      for (int64_t i = 0; i < count; ++i) {
        const int64_t begin = at + places[i];
        if (!StartsWord(text, begin)) continue;
        const int64_t end = WordEnd(text, begin);
        const int64_t c = matcher_.Find(text.substr(begin, end - begin));
        if (c >= 0) f(c, begin, end);
      }
    }
  }

  const WordMatcher& matcher() const { return matcher_; }

  // For each of three places, the buckets that a low and a high half-byte leave possible.
  struct Tables {
    alignas(16) uint8_t low[3][16] = {};
    alignas(16) uint8_t high[3][16] = {};
  };

 private:
  static constexpr int64_t kBlock = 8192;

  // Writes the candidates in [from, to), counted from `from`, in order; returns how many.
  int64_t Candidates(std::string_view text, int64_t from, int64_t to, uint32_t* places) const;

  const WordMatcher& matcher_;
  Tables tables_;
};

// Calls report(begin, end) for the minimal windows of sought words that end with a word beginning in [from, to) and
// whose first word begins at `from` - within or later.
template <class F>
void MinimalPassages(std::string_view text, const WordFinder& finder, int64_t from, int64_t to, int64_t within,
                     const F& report) {
  CoverList list(finder.matcher().need());
  finder.Find(text, from > within ? from - within : 0, to, [&](int64_t c, int64_t begin, int64_t end) {
    if (list.Push(c, begin) && begin >= from && end - list.begin() <= within) report(list.begin(), end);
  });
}

// The `limit` shortest that do not overlap, by length, then document, then place. Exact for any input.
std::vector<Passage> ShortestPassages(std::vector<Passage> passages, int64_t limit);

// The shortest passages of the corpus that hold all the terms, repeated ones as often as asked, ranked as above. Pieces
// of the corpus are searched in parallel; the result does not depend on the number of threads. A piece (4 MiB) with
// more than 65536 minimal windows keeps the shorter half of them.
std::vector<Passage> FindPassages(std::span<const std::string_view> corpus, std::span<const std::string> terms,
                                  const PassageOptions& options);

// The newlines in text.
int64_t CountLines(std::string_view text);

}  // namespace cambium
