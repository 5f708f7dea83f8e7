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

// van Herk/Gil-Werman over whole vectors, then within them: with L lanes and B = blocks_, W[v] is the extreme of the
// vectors v .. v + B - 1, lane by lane, which is every L-th value of a window; the values between are joined by sliding
// W itself by 1, 2, 4, ... places, in registers. Every value is loaded once and every extreme stored once, past the
// caches.
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
    blocks_ = std::max<int64_t>(1, k / lanes_);
    width_ = k - (blocks_ - 1) * lanes_;  // < 2 * lanes_; joined by slides, each of at most what is joined already
  }

  HWY_ATTR void Run() const {
    if (stream_) {
      blocks_ == 1 ? Sweep<true, false>() : Sweep<true, true>();
      hwy::FlushStream();
    } else {
      blocks_ == 1 ? Sweep<false, false>() : Sweep<false, true>();
    }
  }

 private:
  static constexpr int64_t kStreamBytes = 4 << 20;  // beyond the caches: stores pass them by
  static constexpr int64_t kAheadVectors = 4096;    // called for while the suffixes are taken
  static constexpr size_t kSlides = hwy::CeilLog2(hn::MaxLanes(DK())) + 1;

  // Slides of W by places that join width_ neighbours. Its members stay in registers in the loops that copy it.
  struct Slides {
    decltype(hn::IndicesFromVec(DK(), hn::Zero(DK()))) turns[kSlides];  // by so many places
    hn::Mask<DK> stay[kSlides];                                         // the lanes that do not come around
    V before[kSlides], turned[kSlides];                                 // the vector before, and the same turned

    // Takes the next vector; what comes back belongs to the one kSlides earlier.
    template <size_t kFrom = 0>
    HWY_ATTR HWY_INLINE V Join(V w) {
      if constexpr (kFrom == kSlides) {
        return w;
      } else {
        const V turn = hn::TableLookupLanes(w, turns[kFrom]);
        const V joined = hn::Max(before[kFrom], hn::IfThenElse(stay[kFrom], turned[kFrom], turn));
        before[kFrom] = w;
        turned[kFrom] = turn;
        return Join<kFrom + 1>(joined);
      }
    }
  };
  HWY_ATTR Slides MakeSlides() const {
    Slides slides;
    const size_t lanes = static_cast<size_t>(lanes_), width = static_cast<size_t>(width_);
    for (size_t s = 0, joined = 1; s < kSlides; ++s) {
      const size_t by = std::min(joined, width - joined);
      HWY_ALIGN K places[hn::MaxLanes(DK())];
      for (size_t i = 0; i < lanes; ++i) places[i] = static_cast<K>((i + by) % lanes);
      slides.turns[s] = hn::SetTableIndices(dk_, places);
      slides.stay[s] = hn::FirstN(dk_, lanes - by);
      slides.before[s] = slides.turned[s] = hn::Set(dk_, Order::kLowest);
      joined += by;
    }
    return slides;
  }

  template <bool kStream, bool kBlocked>
  HWY_ATTR void Sweep() const {
    const auto suffix = hwy::AllocateAligned<K>(blocks_ * lanes_);
    std::fill(suffix.get(), suffix.get() + blocks_ * lanes_, Order::kLowest);
    State state = {MakeSlides(), hn::Set(dk_, Order::kLowest), 0, suffix.get()};
    // Between low and high vectors are loaded whole, and what they complete is stored whole.
    const int64_t lag = Lag(), total = (count_ + pad_ + lanes_ - 1) / lanes_ + lag;
    const int64_t low = std::min(lag + 1, total);
    const int64_t high = std::max(low, std::min((n_ + pad_) / lanes_, (count_ + pad_) / lanes_ + lag));
    Vectors<kStream, kBlocked, false>(0, low, state);
    Vectors<kStream, kBlocked, true>(low, high, state);
    Vectors<kStream, kBlocked, false>(high, total, state);
  }

  struct State {
    Slides slides;
    V prefix;    // of the block begun, up to the vector before
    int64_t at;  // place within the block
    K* suffix;   // [blocks_] vectors: from `at` on suffixes of the block before, below it this block's keys
  };

  // Takes the vectors begin .. end - 1. The W that vector v completes belongs to v - (blocks_ - 1): a suffix of one
  // block joined to a prefix of the next.
  template <bool kStream, bool kBlocked, bool kWhole>
  HWY_ATTR void Vectors(int64_t begin, int64_t end, State& state) const {
    Slides slides = state.slides;
    V prefix = state.prefix;
    int64_t at = state.at;
    K* HWY_RESTRICT suffix = state.suffix;
    const int64_t lanes = lanes_, blocks = blocks_;
    const T* HWY_RESTRICT from = values_ - pad_;
    T* HWY_RESTRICT to = out_ - pad_ - Lag() * lanes;
    for (int64_t v = begin; v < end;) {
      const int64_t stop = kBlocked ? std::min(end, v + blocks - 1 - at) : end;
      for (; v < stop; ++v) {
        V w = kWhole ? Encode(hn::LoadU(d_, from + v * lanes)) : KeysAt(v * lanes);
        if (kBlocked) {
          prefix = hn::Max(prefix, w);
          const V window = hn::Max(prefix, hn::Load(dk_, suffix + (at + 1) * lanes));
          hn::Store(w, dk_, suffix + at++ * lanes);
          w = window;
        }
        Emit<kStream, kWhole>(to + v * lanes, slides.Join(w));
      }
      if (v == end) break;
      // The block's last vector, and the suffixes of the block, while the next values are called for.
      V tail = kWhole ? Encode(hn::LoadU(d_, from + v * lanes)) : KeysAt(v * lanes);
      Emit<kStream, kWhole>(to + v * lanes, slides.Join(hn::Max(prefix, tail)));
      hn::Store(tail, dk_, suffix + at * lanes);
      const int64_t calls = std::min(std::min(at, kAheadVectors), (n_ + pad_) / lanes - v);
      for (int64_t back = 1; back <= at; ++back) {
        if (back <= calls) hwy::Prefetch(from + (v + back) * lanes);
        K* HWY_RESTRICT place = suffix + (at - back) * lanes;
        tail = hn::Max(tail, hn::Load(dk_, place));
        hn::Store(tail, dk_, place);
      }
      prefix = hn::Set(dk_, Order::kLowest);
      at = 0;
      ++v;
    }
    state = {slides, prefix, at, suffix};
  }
  int64_t Lag() const { return blocks_ - 1 + static_cast<int64_t>(kSlides); }

  // The keys of a vector, the lowest outside the values.
  HWY_ATTR V KeysAt(int64_t e) const {
    if (e >= pad_ && e + lanes_ <= n_ + pad_) return Encode(hn::LoadU(d_, values_ + e - pad_));
    HWY_ALIGN K lane[hn::MaxLanes(DK())];
    for (int64_t i = 0; i < lanes_; ++i) {
      lane[i] = e + i >= pad_ && e + i < pad_ + n_ ? Order::Encode(values_[e + i - pad_]) : Order::kLowest;
    }
    return hn::Load(dk_, lane);
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

  // To a vector's place in out_; lane by lane where it is not all inside.
  template <bool kStream, bool kWhole>
  HWY_ATTR HWY_INLINE void Emit(T* to, V key) const {
    const auto value = Decode(key);
    if (kWhole) {
      kStream ? hn::Stream(value, d_, to) : hn::Store(value, d_, to);
      return;
    }
    HWY_ALIGN T lane[hn::MaxLanes(D())];
    hn::Store(value, d_, lane);
    for (int64_t i = 0; i < lanes_; ++i) {
      if (to + i >= out_ && to + i < out_ + count_) to[i] = lane[i];
    }
  }

  D d_;
  DK dk_;
  const T* values_;
  int64_t n_, count_;
  T* out_;
  int64_t lanes_, pad_, blocks_, width_;
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
