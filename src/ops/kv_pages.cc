// Keys and values in and out of the pages of a cache.
#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "base/simd_targets.h"
#include "ops/attention.h"
#include "ops/ranges.h"
#include "tensor/half.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/kv_pages.cc"
#include "hwy/foreach_target.h"
#include "ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace cambium::HWY_NAMESPACE {
namespace {

template <class T>
void StoreRow(const KvLayer& layer, const int32_t* pages, int64_t slot, const float* k, const float* v) {
  const F32 d;
  constexpr int kSlots = KvLayer::kPageSlots;
  T* page = reinterpret_cast<T*>(static_cast<char*>(layer.base) + pages[slot / kSlots] * layer.page_bytes);
  const int64_t keys = int64_t{layer.kv_heads} * layer.head_dim;
  // Saturates instead of overflowing; a NaN stays (x86 min and max return their second operand).
  const VecF most = hn::Set(d, std::is_same_v<T, Half> ? 65504.0f : 3.4e38f);
  T lanes[kLanes];
  ForVectors(keys, [&](int64_t i, int count) HWY_ATTR {
    StoreF32(d, hn::Min(most, hn::Max(hn::Neg(most), Get(k + i, count))), lanes);
    for (int j = 0; j < count; ++j) page[(i + j) * kSlots + slot % kSlots] = lanes[j];
  });
  for (int64_t head = 0; head < layer.kv_heads; ++head) {
    T* to = page + (keys + head * layer.head_dim) * kSlots + slot % kSlots * layer.head_dim;
    ForVectors(layer.head_dim, [&](int64_t i, int count) HWY_ATTR {
      const VecF value = hn::Min(most, hn::Max(hn::Neg(most), Get(v + head * layer.head_dim + i, count)));
      StoreF32(d, value, lanes);
      std::memcpy(to + i, lanes, sizeof(T) * static_cast<size_t>(count));
    });
  }
}

// Bytes of `count` values, `step` apart, of one scale, which goes to `scale`. Saturates; NaN if a value is.
HWY_INLINE void QuantizeBlock(const float* from, int64_t count, int8_t* to, int64_t step, uint16_t* scale) {
  int32_t greatest = 0;  // magnitudes compare as integers, and NaN is the greatest
  for (int64_t i = 0; i < count; ++i) greatest = std::max(greatest, std::bit_cast<int32_t>(from[i]) & 0x7FFFFFFF);
  const float most = std::bit_cast<float>(greatest);
  *scale = FloatToHalf(most / 127.0f > 65504.0f ? 65504.0f : most / 127.0f);
  const float unit = HalfToFloat(*scale), inverse = unit > 0 ? 1.0f / unit : 0.0f;
  constexpr float kRound = 12582912.0f;  // adding 1.5 * 2^23 rounds to nearest even and leaves the integer below
  for (int64_t i = 0; i < count; ++i) {
    const float q = std::min(127.0f, std::max(-127.0f, from[i] * inverse));
    to[i * step] = static_cast<int8_t>(std::bit_cast<int32_t>(q + kRound) - std::bit_cast<int32_t>(kRound));
  }
}

template <>
void StoreRow<int8_t>(const KvLayer& layer, const int32_t* pages, int64_t slot, const float* k, const float* v) {
  constexpr int kSlots = KvLayer::kPageSlots, kBlock = KvLayer::kScaleBlock;
  char* page = static_cast<char*>(layer.base) + pages[slot / kSlots] * layer.page_bytes;
  int8_t* bytes = reinterpret_cast<int8_t*>(page);
  uint16_t* scales = reinterpret_cast<uint16_t*>(page + layer.ScalesBegin());
  const int64_t dim = layer.head_dim;
  for (int64_t head = 0; head < layer.kv_heads; ++head) {
    for (int64_t b = 0; b < layer.blocks(); ++b) {
      const int64_t begin = b * kBlock, count = std::min<int64_t>(kBlock, dim - begin), at = head * dim + begin;
      QuantizeBlock(k + at, count, bytes + at * kSlots + slot % kSlots, kSlots,
                    scales + layer.KeyScales(head, slot) + b * kSlots);
      const int64_t values = (layer.kv_heads + head) * dim * kSlots + slot % kSlots * dim;
      QuantizeBlock(v + at, count, bytes + values + begin, 1, scales + layer.ValueScales(head, slot) + b);
    }
  }
}

}  // namespace

void StoreKvRow(const KvLayer& layer, const int32_t* pages, int64_t slot, const float* k, const float* v) {
  switch (layer.dtype) {
    case DType::kF16:
      return StoreRow<Half>(layer, pages, slot, k, v);
    case DType::kQ8_0:
      return StoreRow<int8_t>(layer, pages, slot, k, v);
    default:
      return StoreRow<float>(layer, pages, slot, k, v);
  }
}

}  // namespace cambium::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cambium {

HWY_EXPORT(StoreKvRow);

void StoreKv(ThreadPool& pool, const KvLayer& layer, std::span<const AttentionSegment> segments, Tensor k, Tensor v) {
  const int64_t columns = int64_t{layer.kv_heads} * layer.head_dim;
  for (const AttentionSegment& segment : segments) {
    ForRows(pool, segment.keys(), 2 * columns, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t at = (segment.key_begin() + row) * columns;
        HWY_DYNAMIC_DISPATCH(StoreKvRow)(layer, segment.pages.data(), segment.past + row, k.f32() + at, v.f32() + at);
      }
    });
  }
}

void LoadKv(const KvLayer& layer, std::span<const int32_t> pages, int64_t begin, Tensor k, Tensor v) {
  constexpr int64_t kSlots = KvLayer::kPageSlots;
  const int64_t columns = int64_t{layer.kv_heads} * layer.head_dim, count = k.size() / columns;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t slot = begin + i, lane = slot % kSlots;
    const char* const page =
        static_cast<const char*>(layer.base) + pages[static_cast<size_t>(slot / kSlots)] * layer.page_bytes;
    const uint16_t* scales = reinterpret_cast<const uint16_t*>(page + layer.ScalesBegin());
    const auto get = [&](int64_t at, int64_t scale) {
      if (layer.dtype == DType::kF16) return HalfToFloat(reinterpret_cast<const uint16_t*>(page)[at]);
      if (layer.dtype == DType::kF32) return reinterpret_cast<const float*>(page)[at];
      return static_cast<float>(reinterpret_cast<const int8_t*>(page)[at]) * HalfToFloat(scales[scale]);
    };
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t head = j / layer.head_dim, element = j % layer.head_dim, block = element / KvLayer::kScaleBlock;
      const int64_t values = (columns + head * layer.head_dim) * kSlots;
      k.f32()[i * columns + j] = get(j * kSlots + lane, layer.KeyScales(head, slot) + block * kSlots);
      v.f32()[i * columns + j] = get(values + lane * layer.head_dim + element, layer.ValueScales(head, slot) + block);
    }
  }
}

void MoveKv(const KvLayer& layer, std::span<const int32_t> pages, int64_t from, int64_t to) {
  if (from == to) return;
  constexpr int64_t kSlots = KvLayer::kPageSlots;
  const bool scaled = layer.dtype == DType::kQ8_0;
  const int64_t size = scaled ? 1 : Info(layer.dtype).bytes, columns = int64_t{layer.kv_heads} * layer.head_dim;
  const auto page = [&](int64_t slot) {
    return static_cast<char*>(layer.base) + pages[static_cast<size_t>(slot / kSlots)] * layer.page_bytes;
  };
  // One slot's part of [count][16][bytes]: elements of a key, values of heads, and the scales of either.
  const auto move = [&](int64_t begin, int64_t count, int64_t bytes) {
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(page(to) + begin + (i * kSlots + to % kSlots) * bytes,
                  page(from) + begin + (i * kSlots + from % kSlots) * bytes, static_cast<size_t>(bytes));
    }
  };
  move(0, columns, size);
  move(columns * kSlots * size, layer.kv_heads, layer.head_dim * size);
  if (!scaled) return;
  const int64_t blocks = layer.kv_heads * layer.blocks();
  move(layer.ScalesBegin(), blocks, 2);
  move(layer.ScalesBegin() + blocks * kSlots * 2, layer.kv_heads, layer.blocks() * 2);
}

}  // namespace cambium
#endif  // HWY_ONCE
