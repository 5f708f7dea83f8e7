#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "cambium/error.h"

namespace cambium {

// Elements [begin, end) of a sequence.
struct Window {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Window&) const = default;
};

// The shortest window of s that holds every element of t with its multiplicity; the leftmost of equals; none if s lacks
// one. An empty t is held by the empty window {0, 0}. Time O(|s| + |t|), memory O(|t|); s is read, never copied.
// Bytes, Unicode code points, token ids, words.
std::optional<Window> MinCover(std::string_view s, std::string_view t);
std::optional<Window> MinCover(std::u32string_view s, std::u32string_view t);
std::optional<Window> MinCover(std::span<const int32_t> s, std::span<const int32_t> t);
std::optional<Window> MinCover(std::span<const std::string_view> s, std::span<const std::string_view> t);

// At most k windows that do not overlap, shortest first: each is the shortest (then leftmost) that overlaps none chosen
// before it. `windows` are minimal windows in order, as the streaming form reports them. O(n log n).
std::vector<Window> ShortestDisjoint(std::vector<Window> windows, int64_t k);

// The core of the streaming form, over symbols already numbered: need[c] > 0 copies of class c are asked for. Only the
// last need[c] places of each class matter to the window that ends here, so those alone are kept, in one list ordered
// by place: memory O(sum of need) for a stream of any length, and O(1) a push in the worst case.
class CoverList {
 public:
  explicit CoverList(std::span<const int64_t> need);

  // A symbol of class c stands at `position`, larger than all before it; `tag` is the caller's. True when a minimal
  // window closes here: [begin(), position] holds all that is asked for and no window inside it does.
  bool Push(int64_t c, int64_t position, int64_t tag = 0) {
    Class& cls = classes_[c];
    const int32_t at = cls.next;
    if (++cls.next == cls.last) cls.next = cls.first;
    Node& node = nodes_[at];
    if (at != tail_) {
      if (at == head_) {
        head_ = node.after;
      } else {
        nodes_[node.before].after = node.after;
      }
      nodes_[node.after].before = node.before;
      nodes_[tail_].after = at;
      node.before = tail_;
      tail_ = at;
    }
    node.position = position;
    node.tag = tag;
    const int64_t begin = nodes_[head_].position;
    if (begin <= reported_) return false;
    reported_ = begin;
    return true;
  }

  int64_t begin() const { return nodes_[head_].position; }  // -1 until everything has been seen
  int64_t begin_tag() const { return nodes_[head_].tag; }

 private:
  struct Node {
    int64_t position = -1;
    int64_t tag = 0;
    int32_t before = 0, after = 0;
  };
  struct Class {
    int32_t first, last, next;  // its nodes [first, last), the oldest being `next`
  };

  std::vector<Node> nodes_;
  std::vector<Class> classes_;
  int32_t head_ = 0, tail_ = 0;
  int64_t reported_ = -1;  // where the last reported window begins
};

// The streaming form: feed s in pieces; every minimal window is reported once, in order, as it closes. T is char,
// char32_t, int32_t or std::string. Memory O(|t|). An empty t throws kUsage.
template <class T>
class CoverStream {
 public:
  using View = std::conditional_t<std::is_same_v<T, std::string>, std::string_view, T>;

  template <class Range>
  explicit CoverStream(const Range& t) : list_(Count(t)) {}

  // Calls report(Window), indices counted from the first element ever pushed.
  template <class F>
  void Push(const View& element, F&& report) {
    const auto found = classes_.find(element);
    if (found != classes_.end() && list_.Push(found->second, position_)) {
      report(Window{list_.begin(), position_ + 1});
    }
    ++position_;
  }
  template <class Range, class F>
  void Feed(const Range& piece, F&& report) {
    for (const auto& element : piece) Push(element, report);
  }

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(const View& value) const { return std::hash<View>()(value); }
  };

  template <class Range>
  std::vector<int64_t> Count(const Range& t) {
    std::vector<int64_t> need;
    for (const auto& element : t) {
      const auto [place, fresh] = classes_.try_emplace(T(element), static_cast<int64_t>(need.size()));
      if (fresh) need.push_back(0);
      ++need[place->second];
    }
    return need;
  }

  std::unordered_map<T, int64_t, Hash, std::equal_to<>> classes_;
  CoverList list_;
  int64_t position_ = 0;
};

// All minimal windows of s, in order.
template <class T, class S, class Range>
std::vector<Window> MinimalWindows(const S& s, const Range& t) {
  std::vector<Window> windows;
  CoverStream<T>(t).Feed(s, [&](Window w) { windows.push_back(w); });
  return windows;
}

}  // namespace cambium
