// MinCover and its kin against their definitions.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "cambium/min_cover.h"

namespace cambium {
namespace {

template <class S, class T>
bool Covers(const S& s, int64_t begin, int64_t end, const T& t) {
  std::map<typename T::value_type, int64_t> need;
  for (const auto& x : t) ++need[x];
  for (int64_t i = begin; i < end; ++i) {
    if (auto found = need.find(s[i]); found != need.end()) --found->second;
  }
  return std::all_of(need.begin(), need.end(), [](const auto& entry) { return entry.second <= 0; });
}

// Every window of s by rising length, then place.
template <class S>
std::optional<Window> Brute(const S& s, const S& t) {
  const int64_t n = s.size();
  for (int64_t length = 0; length <= n; ++length) {
    for (int64_t begin = 0; begin + length <= n; ++begin) {
      if (Covers(s, begin, begin + length, t)) return Window{begin, begin + length};
    }
  }
  return std::nullopt;
}
// Covering windows that stop covering when either end moves in.
template <class S>
std::vector<Window> BruteMinimal(const S& s, const S& t) {
  std::vector<Window> windows;
  for (int64_t begin = 0; begin < static_cast<int64_t>(s.size()); ++begin) {
    for (int64_t end = begin + 1; end <= static_cast<int64_t>(s.size()); ++end) {
      if (!Covers(s, begin, end, t)) continue;
      if (!Covers(s, begin + 1, end, t) && !Covers(s, begin, end - 1, t)) windows.push_back({begin, end});
      break;
    }
  }
  return windows;
}

std::string Text(int64_t longest, char last) {
  std::string text(*rc::gen::inRange<int64_t>(0, longest + 1), ' ');
  for (char& c : text) c = *rc::gen::inRange('a', static_cast<char>(last + 1));
  return text;
}

TEST(MinCover, Examples) {
  EXPECT_EQ(MinCover("ADOBECODEBANC", "ABC"), (Window{9, 13}));
  EXPECT_EQ(MinCover("a", "a"), (Window{0, 1}));
  EXPECT_EQ(MinCover("a", "aa"), std::nullopt);
}

TEST(MinCover, EdgesHaveDefinedAnswers) {
  EXPECT_EQ(MinCover("abc", ""), (Window{0, 0}));
  EXPECT_EQ(MinCover("", ""), (Window{0, 0}));
  EXPECT_EQ(MinCover("", "a"), std::nullopt);
  EXPECT_EQ(MinCover("abc", "abcd"), std::nullopt);
  EXPECT_EQ(MinCover("abcabc", "abc"), (Window{0, 3}));
  EXPECT_EQ(MinCover("xyz", "xyz"), (Window{0, 3}));
  EXPECT_EQ(MinCover(std::string_view("\0\xff\0", 3), std::string_view("\xff\0", 2)), (Window{0, 2}));
  EXPECT_THROW(CoverStream<char>(std::string_view()), Error);
  EXPECT_THROW(CoverList(std::vector<int64_t>{1, 0}), Error);
}

TEST(MinCover, EveryFormAgreesWithBruteForce) {
  EXPECT_TRUE(rc::check([] {
    const std::string s = Text(40, *rc::gen::inRange('a', 'f')), t = Text(6, 'd');
    const auto want = Brute(s, t);
    RC_ASSERT(MinCover(s, t) == want);
    const std::vector<int32_t> s_ids(s.begin(), s.end()), t_ids(t.begin(), t.end());
    RC_ASSERT(MinCover(s_ids, t_ids) == want);
    const std::u32string s_points(s.begin(), s.end()), t_points(t.begin(), t.end());
    RC_ASSERT(MinCover(s_points, t_points) == want);
    std::vector<std::string_view> s_words, t_words;
    for (const char& c : s) s_words.emplace_back(&c, 1);
    for (const char& c : t) t_words.emplace_back(&c, 1);
    RC_ASSERT(MinCover(s_words, t_words) == want);
    if (t.empty()) return;

    const auto minimal = BruteMinimal(s, t);
    RC_ASSERT(MinimalWindows<char>(s, t) == minimal);
    RC_ASSERT(MinimalWindows<int32_t>(s_ids, t_ids) == minimal);
    RC_ASSERT(MinimalWindows<char32_t>(s_points, t_points) == minimal);
    RC_ASSERT(MinimalWindows<std::string>(s_words, t_words) == minimal);
    // Pieces of any size report the same.
    CoverStream<char> stream(t);
    std::vector<Window> pieces;
    for (size_t at = 0; at < s.size();) {
      const auto size = *rc::gen::inRange<size_t>(0, 9);
      stream.Feed(std::string_view(s).substr(at, size), [&](Window w) { pieces.push_back(w); });
      at += size;
    }
    RC_ASSERT(pieces == minimal);
  }));
}

TEST(MinCover, ShortestDisjointIsGreedyByLengthThenPlace) {
  EXPECT_TRUE(rc::check([] {
    const std::string s = Text(40, 'd'), t = "a" + Text(3, 'd');
    const auto k = *rc::gen::inRange<int64_t>(0, 6);
    std::string rest = s;  // chosen windows are blotted out; no window may hold a blot
    std::vector<Window> want;
    while (static_cast<int64_t>(want.size()) < k) {
      std::optional<Window> best;
      for (const Window& w : MinimalWindows<char>(s, t)) {
        const bool free = rest.substr(w.begin, w.size()).find('#') == std::string::npos;
        if (free && (!best || w.size() < best->size())) best = w;
      }
      if (!best) break;
      rest.replace(best->begin, best->size(), best->size(), '#');
      want.push_back(*best);
    }
    RC_ASSERT(ShortestDisjoint(MinimalWindows<char>(s, t), k) == want);
  }));
}

// Linear reference for long texts, by the window's other definition: for every end, the latest begin that covers.
std::optional<Window> ByEnds(std::string_view s, std::string_view t) {
  std::map<char, int64_t> copies;
  for (char c : t) ++copies[c];
  std::map<char, std::vector<int64_t>> places;
  std::optional<Window> best;
  for (int64_t i = 0; i < static_cast<int64_t>(s.size()); ++i) {
    places[s[i]].push_back(i);
    int64_t begin = i;
    for (const auto& [c, count] : copies) {
      const auto& at = places[c];
      if (static_cast<int64_t>(at.size()) < count) {
        begin = -1;
        break;
      }
      begin = std::min(begin, at[at.size() - count]);
    }
    if (begin >= 0 && (!best || i + 1 - begin < best->size())) best = Window{begin, i + 1};
  }
  return best;
}

TEST(MinCover, LongAdversarialShapes) {
  constexpr int kLength = 100000;
  uint64_t state = 1;
  const auto random = [&] { return (state = state * 6364136223846793005u + 1442695040888963407u) >> 40; };
  for (int shape = 0; shape < 5; ++shape) {
    std::string s(kLength, 'a');
    for (int i = 0; i < kLength; ++i) {
      const int c[] = {0, i / 5000, 20 - i / 5000, i % 26, static_cast<int>(random() % 26)};
      s[i] = static_cast<char>('a' + c[shape]);
    }
    for (const std::string& t : {std::string("a"), std::string("abc"), std::string("aabbz"), std::string(500, 'a'),
                                 std::string("the quick"), s.substr(0, 50000), s, s + "a"}) {
      const auto want = ByEnds(s, t);
      ASSERT_EQ(MinCover(s, t), want) << "shape " << shape << " t " << t.substr(0, 20);
      std::optional<Window> best;
      CoverStream<char>(t).Feed(s, [&](Window w) {
        if (!best || w.size() < best->size()) best = w;
      });
      ASSERT_EQ(best, want) << "stream, shape " << shape << " t " << t.substr(0, 20);
    }
  }
}

// The comparison itself must be able to fail.
TEST(MinCover, AWrongAnswerIsSeen) {
  EXPECT_EQ(Brute(std::string("abcab"), std::string("ca")), (Window{2, 4}));
  EXPECT_NE(ByEnds("abcab", "ca"), (Window{0, 3}));
  EXPECT_NE(BruteMinimal(std::string("abcab"), std::string("ca")),
            MinimalWindows<char>(std::string("abcab"), std::string("cb")));
}

}  // namespace
}  // namespace cambium
