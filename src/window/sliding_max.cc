#include "cambium/sliding_max.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "window/sliding_max.cc"
#include "base/simd_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/aligned_allocator.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace cambium {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T, bool kMin>
class Kernel {
  using D = hn::ScalableTag<T>;
  using DK = hn::RebindToSigned<D>;
  using K = hn::TFromD<DK>;
  using V = hn::Vec<DK>;
  using Order = SlidingOrder<T, kMin>;

 public:
  // out[i] = extreme of values[i .. i + k), i in [0, count), count = n - k + 1 >= 1.
  Kernel(const T* values, int64_t n, int64_t k, T* out)
      : values_(values), n_(n), count_(n - k + 1), out_(out), lanes_(hn::Lanes(DK())) {
    // Everything below is on the grid of aligned vectors of `out`: index e means values[e - pad_] and out[e - pad_].
    pad_ = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) / sizeof(T) % lanes_);
    stream_ = count_ * static_cast<int64_t>(sizeof(T)) >= kStreamBytes;
    // k = blocks * reach + rest. A short k is doubled all the way; a long one up to one vector, then blocks of vectors.
    reach_ = k < kDoubleVectors * lanes_ ? static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(k))) : lanes_;
    blocks_ = k / reach_;
    rest_ = k - blocks_ * reach_;
  }

  HWY_ATTR void Run() const {
    const int64_t chunk = kChunkBytes / static_cast<int64_t>(sizeof(K));
    const int64_t filled = chunk + reach_ + rest_ + lanes_;
    const auto keys = hwy::AllocateAligned<K>(filled + 4 * reach_ + lanes_);
    std::fill(keys.get(), keys.get() + filled + 4 * reach_ + lanes_, Order::kLowest);
    if (blocks_ == 1) {
      for (int64_t e = 0; e < count_ + pad_; e += chunk) {
        Fill(e, filled, keys.get());
        Double(e, filled, keys.get());
        const int64_t stop = std::min(chunk, count_ + pad_ - e);
        for (int64_t i = 0; i < stop; i += lanes_) {
          Emit(e + i, hn::Max(hn::Load(dk_, keys.get() + i), hn::LoadU(dk_, keys.get() + i + rest_)));
        }
      }
    } else {
      RunBlocks(chunk, filled, keys.get());
    }
    if (stream_) hwy::FlushStream();
  }

 private:
  static constexpr int64_t kChunkBytes = 8192;      // of keys, in the first-level cache
  static constexpr int64_t kStreamBytes = 4 << 20;  // beyond the caches: stores pass them by
  static constexpr int64_t kDoubleVectors = 16;     // a longer window is cheaper in blocks

  // Lane by lane, a window of blocks_ vectors that already hold the extremes of `reach_` neighbours. With B = blocks_
  // and vectors counted from 0, window [v, v + B) is the suffix of its block from v joined to the prefix of the next
  // block up to v + B - 1.
  HWY_ATTR void RunBlocks(int64_t chunk, int64_t filled, K* HWY_RESTRICT keys) const {
    const int64_t lanes = lanes_, rest = rest_, blocks = blocks_;
    const auto suffixes = hwy::AllocateAligned<K>(blocks * lanes);
    K* HWY_RESTRICT suffix = suffixes.get();
    std::fill(suffix, suffix + blocks * lanes, Order::kLowest);
    V prefix = hn::Set(dk_, Order::kLowest);
    const int64_t lag = (blocks - 1) * lanes;  // the window that ends with vector e begins at e - lag
    int64_t at = 0;                            // place within the block
    for (int64_t e = 0; e - lag < count_ + pad_; e += chunk) {
      Fill(e, filled, keys);
      Double(e, filled, keys);
      const int64_t stop = std::min(chunk, count_ + pad_ + lag - e);
      for (int64_t i = 0; i < stop;) {
        const int64_t run = std::min((stop - i + lanes - 1) / lanes, blocks - 1 - at);
        const auto step = [&](int64_t r) HWY_ATTR {
          const V here = hn::Load(dk_, keys + i + r * lanes);
          prefix = hn::Max(prefix, here);
          const V window = hn::Max(prefix, hn::Load(dk_, suffix + (at + r + 1) * lanes));
          hn::Store(here, dk_, suffix + (at + r) * lanes);
          return hn::Max(window, hn::LoadU(dk_, keys + i + r * lanes + rest));
        };
        const int64_t first = e + i - lag;
        if (first >= pad_ && first + run * lanes <= count_ + pad_) {
          T* HWY_RESTRICT to = out_ + first - pad_;
          if (stream_) {
            for (int64_t r = 0; r < run; ++r) hn::Stream(Decode(step(r)), d_, to + r * lanes);
          } else {
            for (int64_t r = 0; r < run; ++r) hn::Store(Decode(step(r)), d_, to + r * lanes);
          }
        } else {
          for (int64_t r = 0; r < run; ++r) Emit(first + r * lanes, step(r));
        }
        at += run;
        i += run * lanes;
        if (i >= stop) break;
        V tail = hn::Load(dk_, keys + i);
        Emit(e + i - lag, hn::Max(hn::Max(prefix, tail), hn::LoadU(dk_, keys + i + rest)));
        hn::Store(tail, dk_, suffix + at * lanes);
        for (int64_t back = at - 1; back >= 0; --back) {
          tail = hn::Max(tail, hn::Load(dk_, suffix + back * lanes));
          hn::Store(tail, dk_, suffix + back * lanes);
        }
        prefix = hn::Set(dk_, Order::kLowest);
        at = 0;
        i += lanes;
      }
    }
  }

  // keys[i] = the key at e + i, the lowest beyond the values.
  HWY_ATTR void Fill(int64_t e, int64_t size, K* keys) const {
    int64_t i = 0;
    for (; i < size && e + i < pad_; ++i) keys[i] = Order::kLowest;
    if (i > 0) {
      for (; i % lanes_ != 0; ++i) keys[i] = KeyAt(e + i);
    }
    for (; i + lanes_ <= size && e + i + lanes_ <= n_ + pad_; i += lanes_) {
      hn::Store(Encode(hn::LoadU(d_, values_ + e + i - pad_)), dk_, keys + i);
    }
    for (; i < size; ++i) keys[i] = KeyAt(e + i);
  }
  K KeyAt(int64_t e) const { return e < pad_ + n_ ? Order::Encode(values_[e - pad_]) : Order::kLowest; }

  // keys[i] = the extreme of keys[i .. i + reach_). The first pass calls for the next chunk's values.
  HWY_ATTR void Double(int64_t e, int64_t size, K* keys) const {
    const T* next = values_ + e + size - pad_;
    const int64_t ahead = std::clamp<int64_t>(n_ - (e + size - pad_), 0, size);
    int64_t width = 1;
    for (; width * 4 <= reach_; width *= 4) {
      for (int64_t i = 0; i < size; i += lanes_) {
        if (width == 1 && i < ahead) hwy::Prefetch(next + i);
        const V a = hn::Max(hn::Load(dk_, keys + i), hn::LoadU(dk_, keys + i + width));
        const V b = hn::Max(hn::LoadU(dk_, keys + i + 2 * width), hn::LoadU(dk_, keys + i + 3 * width));
        hn::Store(hn::Max(a, b), dk_, keys + i);
      }
    }
    if (width * 2 <= reach_) {
      for (int64_t i = 0; i < size; i += lanes_) {
        if (width == 1 && i < ahead) hwy::Prefetch(next + i);
        hn::Store(hn::Max(hn::Load(dk_, keys + i), hn::LoadU(dk_, keys + i + width)), dk_, keys + i);
      }
    }
  }

  HWY_ATTR V Encode(hn::Vec<D> value) const {
    if constexpr (std::is_integral_v<T>) {
      return kMin ? hn::Not(value) : value;
    } else {
      V bits = hn::BitCast(dk_, value);
      if (kMin) bits = hn::Xor(bits, hn::Set(dk_, Order::kLowest));
      const V nan = hn::BitCast(dk_, hn::Set(d_, std::numeric_limits<T>::quiet_NaN()));
      return Fold(hn::IfThenElse(hn::RebindMask(dk_, hn::IsNaN(value)), nan, bits));
    }
  }
  HWY_ATTR hn::Vec<D> Decode(V key) const {
    if constexpr (std::is_integral_v<T>) {
      return kMin ? hn::Not(key) : key;
    } else {
      const V bits = Fold(key);
      return hn::BitCast(d_, kMin ? hn::Xor(bits, hn::Set(dk_, Order::kLowest)) : bits);
    }
  }
  // Sign-magnitude to two's complement order, and back.
  HWY_ATTR V Fold(V bits) const {
    return hn::Xor(bits, hn::And(hn::BroadcastSignBit(bits), hn::Set(dk_, std::numeric_limits<K>::max())));
  }

  HWY_ATTR HWY_INLINE void Emit(int64_t e, V key) const {
    const auto value = Decode(key);
    if (HWY_LIKELY(e >= pad_ && e + lanes_ <= count_ + pad_)) {
      if (stream_) {
        hn::Stream(value, d_, out_ + e - pad_);
      } else {
        hn::Store(value, d_, out_ + e - pad_);
      }
      return;
    }
    HWY_ALIGN T lane[hn::MaxLanes(D())];
    hn::Store(value, d_, lane);
    for (int64_t i = 0; i < lanes_; ++i) {
      if (e + i >= pad_ && e + i < count_ + pad_) out_[e + i - pad_] = lane[i];
    }
  }

  D d_;
  DK dk_;
  const T* values_;
  int64_t n_, count_;
  T* out_;
  int64_t lanes_, pad_, reach_, blocks_, rest_;
  bool stream_;
};

#define CAMBIUM_SLIDING(NAME, T, MIN) \
  void NAME(const T* values, int64_t n, int64_t k, T* out) { Kernel<T, MIN>(values, n, k, out).Run(); }
CAMBIUM_SLIDING(MaxInt32, int32_t, false)
CAMBIUM_SLIDING(MinInt32, int32_t, true)
CAMBIUM_SLIDING(MaxInt64, int64_t, false)
CAMBIUM_SLIDING(MinInt64, int64_t, true)
CAMBIUM_SLIDING(MaxFloat, float, false)
CAMBIUM_SLIDING(MinFloat, float, true)
CAMBIUM_SLIDING(MaxDouble, double, false)
CAMBIUM_SLIDING(MinDouble, double, true)
#undef CAMBIUM_SLIDING

}  // namespace HWY_NAMESPACE
}  // namespace cambium
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cambium {
HWY_EXPORT(MaxInt32);
HWY_EXPORT(MinInt32);
HWY_EXPORT(MaxInt64);
HWY_EXPORT(MinInt64);
HWY_EXPORT(MaxFloat);
HWY_EXPORT(MinFloat);
HWY_EXPORT(MaxDouble);
HWY_EXPORT(MinDouble);

namespace {

template <class T, bool kMin>
void Dispatch(const T* values, int64_t n, int64_t k, T* out) {
  if constexpr (std::is_same_v<T, int32_t>) {
    kMin ? HWY_DYNAMIC_DISPATCH(MinInt32)(values, n, k, out) : HWY_DYNAMIC_DISPATCH(MaxInt32)(values, n, k, out);
  } else if constexpr (std::is_same_v<T, int64_t>) {
    kMin ? HWY_DYNAMIC_DISPATCH(MinInt64)(values, n, k, out) : HWY_DYNAMIC_DISPATCH(MaxInt64)(values, n, k, out);
  } else if constexpr (std::is_same_v<T, float>) {
    kMin ? HWY_DYNAMIC_DISPATCH(MinFloat)(values, n, k, out) : HWY_DYNAMIC_DISPATCH(MaxFloat)(values, n, k, out);
  } else {
    kMin ? HWY_DYNAMIC_DISPATCH(MinDouble)(values, n, k, out) : HWY_DYNAMIC_DISPATCH(MaxDouble)(values, n, k, out);
  }
}

template <class T>
int64_t CheckedCount(std::span<const T> values, int64_t k, size_t out_size) {
  const int64_t count = SlidingCount(values.size(), k);
  if (static_cast<int64_t>(out_size) != count) {
    Fail(ErrorCode::kUsage, "sliding window over ", values.size(), " values, k ", k, ": the output holds ", out_size,
         ", must hold ", count);
  }
  return count;
}

template <class T, bool kMin>
void Extremes(std::span<const T> values, int64_t k, std::span<T> out) {
  if (CheckedCount(values, k, out.size()) > 0) Dispatch<T, kMin>(values.data(), values.size(), k, out.data());
}

// From the extremes, piece by piece: while the extreme stays and its first place is still inside, nothing changes; a
// larger one can only have come in last; an expired one is looked for from the new window's start, and since the place
// found is where the next search starts from, all searches together read each value once.
template <class T, bool kMin>
void ArgExtremes(std::span<const T> values, int64_t k, std::span<int64_t> out) {
  using Order = SlidingOrder<T, kMin>;
  const int64_t count = CheckedCount(values, k, out.size());
  const int64_t piece = std::min(count, std::max<int64_t>(1 << 15, k <= count ? 4 * k : count));
  std::vector<T> extremes(piece);
  int64_t place = -1;
  auto current = Order::kLowest;
  for (int64_t start = 0; start < count; start += piece) {
    const int64_t size = std::min(piece, count - start);
    Dispatch<T, kMin>(values.data() + start, size + k - 1, k, extremes.data());
    for (int64_t i = start; i < start + size; ++i) {
      const auto key = Order::Encode(extremes[i - start]);
      if (place < i) {
        for (place = i; Order::Encode(values[place]) != key; ++place) {
        }
      } else if (key != current) {
        place = i + k - 1;
      }
      current = key;
      out[i] = place;
    }
  }
}

}  // namespace

#define CAMBIUM_SLIDING(T)                                                           \
  template <>                                                                        \
  void SlidingMax(std::span<const T> values, int64_t k, std::span<T> out) {          \
    Extremes<T, false>(values, k, out);                                              \
  }                                                                                  \
  template <>                                                                        \
  void SlidingMin(std::span<const T> values, int64_t k, std::span<T> out) {          \
    Extremes<T, true>(values, k, out);                                               \
  }                                                                                  \
  template <>                                                                        \
  void SlidingArgMax(std::span<const T> values, int64_t k, std::span<int64_t> out) { \
    ArgExtremes<T, false>(values, k, out);                                           \
  }                                                                                  \
  template <>                                                                        \
  void SlidingArgMin(std::span<const T> values, int64_t k, std::span<int64_t> out) { \
    ArgExtremes<T, true>(values, k, out);                                            \
  }
CAMBIUM_SLIDING(int32_t)
CAMBIUM_SLIDING(int64_t)
CAMBIUM_SLIDING(float)
CAMBIUM_SLIDING(double)
#undef CAMBIUM_SLIDING

}  // namespace cambium
#endif  // HWY_ONCE
