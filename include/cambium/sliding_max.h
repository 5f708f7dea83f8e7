#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "cambium/error.h"

namespace cambium {

// The element types of the sliding extremes.
template <class T>
concept SlidingValue =
    std::same_as<T, int32_t> || std::same_as<T, int64_t> || std::same_as<T, float> || std::same_as<T, double>;

// The one order behind every form below, as an integer key whose ordinary < is that order; kMin reverses it, so that
// every extreme is a maximum of keys. Floats follow IEEE 754-2019 maximum and minimum: a NaN beats everything, so a
// window that holds one has NaN as its extreme (and the first NaN as its arg-extreme), and -0 < +0.
template <SlidingValue T, bool kMin>
struct SlidingOrder {
  using Key = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  static constexpr Key kLowest = std::numeric_limits<Key>::min();  // no float has this key

  static Key Encode(T value) {
    if constexpr (std::is_integral_v<T>) {
      return kMin ? ~value : value;
    } else {
      Key bits = std::bit_cast<Key>(value);
      if (kMin) bits ^= kLowest;
      if (value != value) bits = std::bit_cast<Key>(std::numeric_limits<T>::quiet_NaN());
      return bits ^ ((bits >> (8 * sizeof(Key) - 1)) & std::numeric_limits<Key>::max());
    }
  }
  static T Decode(Key key) {
    if constexpr (std::is_integral_v<T>) {
      return kMin ? ~key : key;
    } else {
      const Key bits = key ^ ((key >> (8 * sizeof(Key) - 1)) & std::numeric_limits<Key>::max());
      return std::bit_cast<T>(kMin ? bits ^ kLowest : bits);
    }
  }
};

// out[i] = the extreme of values[i .. i + k), for every full window: size values.size() - k + 1, none when k exceeds
// values.size(). Time O(n) at any k, memory O(k) beside the arrays. `out` may start where `values` starts, and may not
// overlap it otherwise. k < 1, or an `out` of another size, throws kUsage.
// Blocks of van Herk (Pattern Recognition Letters 13, 1992) and Gil-Werman (IEEE PAMI 15, 1993), on whole vectors.
template <SlidingValue T>
void SlidingMax(std::span<const T> values, int64_t k, std::span<T> out);
template <SlidingValue T>
void SlidingMin(std::span<const T> values, int64_t k, std::span<T> out);

// The same windows: the index in `values` of the extreme, the first of equals. `out` overlaps nothing.
template <SlidingValue T>
void SlidingArgMax(std::span<const T> values, int64_t k, std::span<int64_t> out);
template <SlidingValue T>
void SlidingArgMin(std::span<const T> values, int64_t k, std::span<int64_t> out);

// The number of full windows of k among n values; k < 1 throws kUsage.
inline int64_t SlidingCount(int64_t n, int64_t k) {
  if (k < 1) Fail(ErrorCode::kUsage, "window length k is ", k, ", must be at least 1");
  return k > n ? 0 : n - k + 1;
}

template <SlidingValue T>
std::vector<T> SlidingMax(const std::vector<T>& values, int64_t k) {
  std::vector<T> out(SlidingCount(values.size(), k));
  SlidingMax<T>(values, k, out);
  return out;
}
template <SlidingValue T>
std::vector<T> SlidingMin(const std::vector<T>& values, int64_t k) {
  std::vector<T> out(SlidingCount(values.size(), k));
  SlidingMin<T>(values, k, out);
  return out;
}

// The extreme of the last k values of a stream, by a monotonic deque: O(1) amortised a push. Memory grows to at most k
// entries, and stays near ln k on values in random order. The order and the rule for equals are those above.
template <SlidingValue T, bool kMin>
class SlidingExtreme {
 public:
  explicit SlidingExtreme(int64_t k) : k_(k) {
    if (k < 1) Fail(ErrorCode::kUsage, "window length k is ", k, ", must be at least 1");
  }

  // Adds a value and returns the extreme of the last min(k, pushed()) values.
  T Push(T value) {
    const Key key = Order::Encode(value);
    if (head_ != tail_ && ring_[head_ & mask_].index <= pushed_ - k_) ++head_;
    // Random values leave three times in four after at most two others: without branches, which would be mispredicted.
    for (int step = 0; step < 2; ++step)
      tail_ -= static_cast<int>(tail_ != head_) & (ring_[(tail_ - 1) & mask_].key < key);
    while (tail_ != head_ && ring_[(tail_ - 1) & mask_].key < key) --tail_;
    if (tail_ - head_ == ring_.size()) Grow();
    ring_[tail_++ & mask_] = {key, pushed_++};
    return Order::Decode(ring_[head_ & mask_].key);
  }

  bool full() const { return pushed_ >= k_; }
  int64_t pushed() const { return pushed_; }
  // Both need one push at least.
  T value() const { return Order::Decode(ring_[head_ & mask_].key); }
  int64_t index() const { return ring_[head_ & mask_].index; }  // counted from the first push

 private:
  using Order = SlidingOrder<T, kMin>;
  using Key = typename Order::Key;
  struct Entry {
    Key key;
    int64_t index;
  };

  void Grow() {
    std::vector<Entry> larger(2 * ring_.size());
    for (uint64_t i = head_; i != tail_; ++i) larger[i & (larger.size() - 1)] = ring_[i & mask_];
    ring_.swap(larger);
    mask_ = ring_.size() - 1;
  }

  int64_t k_;
  int64_t pushed_ = 0;
  uint64_t head_ = 0, tail_ = 0;  // the deque is [head_, tail_), taken modulo the ring
  std::vector<Entry> ring_ = std::vector<Entry>(16);
  uint64_t mask_ = 15;
};

template <SlidingValue T>
using SlidingMaximum = SlidingExtreme<T, false>;
template <SlidingValue T>
using SlidingMinimum = SlidingExtreme<T, true>;

// The mean of the last k values of a stream, O(1) amortised a push. The sum is taken afresh once every k pushes, so
// rounding errors do not pile up; counts are summed exactly.
class SlidingMean {
 public:
  explicit SlidingMean(int64_t k) : k_(k) {
    if (k < 1) Fail(ErrorCode::kUsage, "window length k is ", k, ", must be at least 1");
  }

  // Adds a value and returns the mean of the last min(k, pushed) values.
  double Push(double value) {
    if (static_cast<int64_t>(ring_.size()) < k_) {
      ring_.push_back(value);
      sum_ += value;
    } else {
      sum_ += value - ring_[next_];
      ring_[next_] = value;
      if (++next_ == k_) {
        next_ = 0;
        sum_ = 0;
        for (double x : ring_) sum_ += x;
      }
    }
    return mean();
  }

  double sum() const { return sum_; }
  double mean() const { return ring_.empty() ? 0 : sum_ / static_cast<double>(ring_.size()); }
  bool full() const { return static_cast<int64_t>(ring_.size()) == k_; }

 private:
  int64_t k_;
  int64_t next_ = 0;  // the oldest of a full ring
  double sum_ = 0;
  std::vector<double> ring_;
};

// The amax history of delayed scaling (NVIDIA TransformerEngine, common/recipe/delayed_scaling.cu, algorithm "max"):
// Push returns the maximum over this step and the length - 1 steps recorded before it. As there, a NaN takes a slot but
// never the maximum, and a step whose amax is 0 takes no slot. Their rescan of the history is O(length) a step.
class AmaxHistory {
 public:
  explicit AmaxHistory(int64_t length) {
    if (length < 1) Fail(ErrorCode::kUsage, "amax history length is ", length, ", must be at least 1");
    if (length > 1) recorded_.emplace(length - 1);
  }

  // amax >= 0 or NaN; the result is never NaN.
  float Push(float amax) {
    const float newest = std::isnan(amax) ? 0.0f : amax;
    const float past = recorded_ && recorded_->pushed() > 0 ? recorded_->value() : 0.0f;
    if (recorded_ && amax != 0) recorded_->Push(newest);
    return std::max(newest, past);
  }

 private:
  std::optional<SlidingMaximum<float>> recorded_;  // the length - 1 steps before the newest
};

}  // namespace cambium
