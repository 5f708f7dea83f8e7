#include "base/simd_targets.h"
#include "ops/ops.h"
#include "ops/ranges.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/rope.cc"
#include "hwy/foreach_target.h"
#include "ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace cambium::HWY_NAMESPACE {
namespace {

using F64 = hn::CappedTag<double, 16>;
constexpr int kLanes64 = static_cast<int>(hn::MaxLanes(F64()));

// sin and cos of an angle that was rounded to f32, as PyTorch computes it; reduced in double, so that it is right to
// an f32 unit in the last place at any position below 2^31. Taylor series on |r| <= pi/4 reach 1e-11.
HWY_INLINE void SinCos(hn::Vec<F64> angle, hn::Vec<F64>& sine, hn::Vec<F64>& cosine) {
  const F64 d;
  const auto quarter = hn::Round(hn::Mul(angle, hn::Set(d, 0.63661977236758134308)));
  auto r = hn::NegMulAdd(quarter, hn::Set(d, 1.57079632679489655800), angle);
  r = hn::NegMulAdd(quarter, hn::Set(d, 6.12323399573676603587e-17), r);
  const auto z = hn::Mul(r, r);
  auto s = hn::Set(d, -1.0 / 39916800);
  s = hn::MulAdd(s, z, hn::Set(d, 1.0 / 362880));
  s = hn::MulAdd(s, z, hn::Set(d, -1.0 / 5040));
  s = hn::MulAdd(s, z, hn::Set(d, 1.0 / 120));
  s = hn::MulAdd(s, z, hn::Set(d, -1.0 / 6));
  s = hn::MulAdd(hn::Mul(s, z), r, r);
  auto c = hn::Set(d, 1.0 / 479001600);
  c = hn::MulAdd(c, z, hn::Set(d, -1.0 / 3628800));
  c = hn::MulAdd(c, z, hn::Set(d, 1.0 / 40320));
  c = hn::MulAdd(c, z, hn::Set(d, -1.0 / 720));
  c = hn::MulAdd(c, z, hn::Set(d, 1.0 / 24));
  c = hn::MulAdd(c, z, hn::Set(d, -0.5));
  c = hn::MulAdd(c, z, hn::Set(d, 1.0));
  // quarter mod 4 in {-2, -1, 0, 1, 2}: odd quarters swap sine and cosine; 1 and 2 negate the cosine, -1 and 2 the
  // sine.
  const auto turn = hn::NegMulAdd(hn::Round(hn::Mul(quarter, hn::Set(d, 0.25))), hn::Set(d, 4.0), quarter);
  const auto one = hn::Set(d, 1.0);
  const auto swap = hn::Eq(hn::Abs(turn), one);
  const auto flip_both = hn::Gt(hn::Abs(turn), hn::Set(d, 1.5));
  const auto sign = hn::IfThenElse(flip_both, hn::Neg(one), one);
  const auto odd_sign = hn::IfThenElse(swap, turn, one);
  sine = hn::Mul(hn::IfThenElse(swap, hn::Mul(c, odd_sign), s), sign);
  cosine = hn::Mul(hn::IfThenElse(swap, hn::Neg(hn::Mul(s, odd_sign)), c), sign);
}

}  // namespace

// cosines and sines are scratch of `half` floats each.
void RopeRows(float* x, const int32_t* positions, const float* inv_freq, float scale, float direction, int64_t begin,
              int64_t end, int64_t heads, int64_t head_dim, int64_t half, float* cosines, float* sines) {
  const F64 d64;
  for (int64_t row = begin; row < end; ++row) {
    if (row == begin || positions[row] != positions[row - 1]) {
      HWY_ALIGN double angles[kLanes64], sin_lanes[kLanes64], cos_lanes[kLanes64];
      for (int64_t i = 0; i < half; i += kLanes64) {
        const int64_t count = half - i < kLanes64 ? half - i : kLanes64;
        for (int64_t j = 0; j < kLanes64; ++j) {
          angles[j] = j < count ? static_cast<float>(positions[row]) * inv_freq[i + j] : 0.0f;
        }
        hn::Vec<F64> sine, cosine;
        SinCos(hn::Load(d64, angles), sine, cosine);
        hn::Store(sine, d64, sin_lanes);
        hn::Store(cosine, d64, cos_lanes);
        for (int64_t j = 0; j < count; ++j) {
          cosines[i + j] = static_cast<float>(cos_lanes[j]) * scale;
          sines[i + j] = static_cast<float>(sin_lanes[j]) * scale * direction;
        }
      }
    }
    for (int64_t head = 0; head < heads; ++head) {
      float* low = x + (row * heads + head) * head_dim;
      float* high = low + half;
      ForVectors(half, [&](int64_t i, int count) HWY_ATTR {
        const VecF a = Get(low + i, count), b = Get(high + i, count);
        const VecF c = Get(cosines + i, count), s = Get(sines + i, count);
        Put(hn::NegMulAdd(b, s, hn::Mul(a, c)), low + i, count);
        Put(hn::MulAdd(a, s, hn::Mul(b, c)), high + i, count);
      });
    }
  }
}

}  // namespace cambium::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cambium {

HWY_EXPORT(RopeRows);

namespace {

// direction 1 rotates forward, -1 back: the backward of a rotation is its inverse.
void Rotate(ThreadPool& pool, Tensor x, std::span<const int32_t> positions, Tensor inv_freq, float scale,
            float direction) {
  constexpr int64_t kMaxHalf = 1024;
  const int64_t rows = static_cast<int64_t>(positions.size()), half = inv_freq.size();
  const int64_t head_dim = x.rank == 3 ? x.shape[2] : 2 * half;
  Check(half > 0 && half <= kMaxHalf && 2 * half <= head_dim && rows > 0 && x.size() % (rows * head_dim) == 0,
        "Rope shapes agree");
  const int64_t heads = x.size() / (rows * head_dim);
  ForRows(pool, rows, heads * head_dim, [&](int64_t begin, int64_t end) {
    alignas(64) float cosines[kMaxHalf], sines[kMaxHalf];
    HWY_DYNAMIC_DISPATCH(RopeRows)
    (x.f32(), positions.data(), inv_freq.f32(), scale, direction, begin, end, heads, head_dim, half, cosines, sines);
  });
}

}  // namespace

void Rope(ThreadPool& pool, Tensor x, std::span<const int32_t> positions, Tensor inv_freq, float scale) {
  Rotate(pool, x, positions, inv_freq, scale, 1.0f);
}

void RopeBackward(ThreadPool& pool, Tensor dx, std::span<const int32_t> positions, Tensor inv_freq, float scale) {
  Rotate(pool, dx, positions, inv_freq, scale, -1.0f);
}

}  // namespace cambium
#endif  // HWY_ONCE
