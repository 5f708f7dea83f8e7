#include "cambium/min_cover.h"

#include <algorithm>
#include <array>
#include <bit>
#include <iterator>
#include <limits>
#include <map>

namespace cambium {
namespace {

// The shortest window over n symbols. need[c] copies of class c are asked for, m in all; class_of(i) numbers symbol i,
// and a class that t lacks has need 0. Once a window of length L is known, a window of length L - 1 slides on, and
// stops only where it too holds everything: then it shrinks. So the inner loop has no branch that depends on the text.
template <class ClassOf>
std::optional<Window> Shortest(int64_t n, int64_t m, int64_t* need, const ClassOf& class_of) {
  if (m == 0) return Window{0, 0};
  int64_t missing = m, left = 0, right = 0;
  for (; right < n && missing > 0; ++right) missing -= need[class_of(right)]-- > 0;
  if (missing > 0) return std::nullopt;
  for (;;) {
    while (need[class_of(left)] < 0) ++need[class_of(left++)];
    const Window best{left, right};
    if (best.size() == m) return best;
    ++need[class_of(left++)];
    missing = 1;
    for (; missing > 0; ++right, ++left) {
      if (right == n) return best;
      const auto in = class_of(right), out = class_of(left);
      missing -= need[in]-- > 0;
      missing += ++need[out] > 0;
    }
  }
}

// The same for bytes when t repeats none, and is short: each byte only records its place, which no later byte has to
// wait for. The window begins at the oldest place, so it moves only where the byte that stands there comes again.
std::optional<Window> ShortestOfDistinct(std::string_view s, std::string_view t) {
  std::array<int64_t, 256> last;
  last.fill(-1);
  const auto oldest = [&] {
    int64_t begin = last[static_cast<unsigned char>(t[0])];
    for (const unsigned char c : t) begin = std::min(begin, last[c]);
    return begin;
  };
  const auto n = static_cast<int64_t>(s.size()), m = static_cast<int64_t>(t.size());
  int64_t at = 0;
  for (const char c : t) {  // up to the first place where each has come
    const size_t first = s.find(c);
    if (first == s.npos) return std::nullopt;
    at = std::max(at, static_cast<int64_t>(first));
  }
  for (int64_t i = 0; i <= at; ++i) last[static_cast<unsigned char>(s[i])] = i;
  Window best{oldest(), at + 1};
  auto awaited = static_cast<unsigned char>(s[best.begin]);
  for (++at; at < n && best.size() > m; ++at) {
    const auto c = static_cast<unsigned char>(s[at]);
    last[c] = at;
    if (c != awaited) continue;
    const int64_t begin = oldest();
    awaited = static_cast<unsigned char>(s[begin]);
    if (at + 1 - begin < best.size()) best = {begin, at + 1};
  }
  return best;
}

// Numbers the symbols of t from 1; everything else is class 0. Open addressing, at most half full.
template <class T>
class Numbering {
 public:
  explicit Numbering(std::span<const T> t)
      : shift_(64 - std::bit_width(2 * t.size() + 1)), slots_(size_t{1} << (64 - shift_)) {
    for (const T& symbol : t) {
      Slot& slot = slots_[Find(symbol)];
      if (slot.number == 0) slot = {symbol, static_cast<int64_t>(need_.size())}, need_.push_back(0);
      ++need_[slot.number];
    }
  }
  int64_t operator()(const T& symbol) const { return slots_[Find(symbol)].number; }
  int64_t* need() { return need_.data(); }

 private:
  struct Slot {
    T symbol{};
    int64_t number = 0;
  };
  size_t Find(const T& symbol) const {
    size_t i = (std::hash<T>()(symbol) * 0x9E3779B97F4A7C15u) >> shift_;
    while (slots_[i].number != 0 && slots_[i].symbol != symbol) i = (i + 1) & (slots_.size() - 1);
    return i;
  }

  int shift_;
  std::vector<Slot> slots_;
  std::vector<int64_t> need_ = {0};
};

template <class T>
std::optional<Window> MinCoverOf(std::span<const T> s, std::span<const T> t) {
  if (t.size() > s.size()) return std::nullopt;
  Numbering<T> number(t);
  return Shortest(s.size(), t.size(), number.need(), [&](int64_t i) { return number(s[i]); });
}

}  // namespace

std::optional<Window> MinCover(std::string_view s, std::string_view t) {
  if (t.size() > s.size()) return std::nullopt;
  std::array<int64_t, 256> need{};
  for (unsigned char c : t) ++need[c];
  constexpr size_t kShort = 16;  // O(|t|) whenever the window moves
  if (!t.empty() && t.size() <= kShort && *std::max_element(need.begin(), need.end()) == 1) {
    return ShortestOfDistinct(s, t);
  }
  return Shortest(s.size(), t.size(), need.data(), [&](int64_t i) { return static_cast<unsigned char>(s[i]); });
}
std::optional<Window> MinCover(std::u32string_view s, std::u32string_view t) {
  return MinCoverOf(std::span<const char32_t>(s), std::span<const char32_t>(t));
}
std::optional<Window> MinCover(std::span<const int32_t> s, std::span<const int32_t> t) { return MinCoverOf(s, t); }
std::optional<Window> MinCover(std::span<const std::string_view> s, std::span<const std::string_view> t) {
  return MinCoverOf(s, t);
}

std::vector<Window> ShortestDisjoint(std::vector<Window> windows, int64_t k) {
  std::stable_sort(windows.begin(), windows.end(),
                   [](const Window& a, const Window& b) { return a.size() < b.size(); });
  std::vector<Window> chosen;
  std::map<int64_t, int64_t> taken;  // begin -> end
  for (const Window& w : windows) {
    if (static_cast<int64_t>(chosen.size()) >= k) break;
    const auto after = taken.lower_bound(w.begin);
    if (after != taken.end() && after->first < w.end) continue;
    if (after != taken.begin() && std::prev(after)->second > w.begin) continue;
    taken.emplace(w.begin, w.end);
    chosen.push_back(w);
  }
  return chosen;
}

CoverList::CoverList(std::span<const int64_t> need) {
  int64_t total = 0;
  for (const int64_t copies : need) {
    if (copies < 1 || copies > std::numeric_limits<int32_t>::max() - total) {
      Fail(ErrorCode::kUsage, "a cover asks for ", copies, " copies of one element");
    }
    const auto first = static_cast<int32_t>(total), last = static_cast<int32_t>(total += copies);
    classes_.push_back({first, last, first});
  }
  if (total == 0) Fail(ErrorCode::kUsage, "a cover asks for nothing: the sought elements are empty");
  nodes_.resize(total);
  for (int32_t i = 0; i < static_cast<int32_t>(total); ++i) nodes_[i].before = i - 1, nodes_[i].after = i + 1;
  tail_ = static_cast<int32_t>(total) - 1;
}

}  // namespace cambium
