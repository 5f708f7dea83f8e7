// Per-target vector helpers shared by the ops: conversions, exp, tanh, and sums in one fixed order.
#if defined(CAMBIUM_OPS_SIMD_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CAMBIUM_OPS_SIMD_MATH_INL_H_
#undef CAMBIUM_OPS_SIMD_MATH_INL_H_
#else
#define CAMBIUM_OPS_SIMD_MATH_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace cambium::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most 16 floats, so that one vector never spans two pages' worth of keys.
using F32 = hn::CappedTag<float, 16>;
using VecF = hn::Vec<F32>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(F32()));

// IEEE half and bfloat16 in memory. Highway 1.0.3 truncates where these round to nearest even.
struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

HWY_INLINE VecF LoadF32(F32 d, const float* from) { return hn::LoadU(d, from); }

HWY_INLINE VecF LoadF32(F32 d, const Half* from) {
#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
  const hn::RebindToUnsigned<F32> du;
  const auto half = hn::PromoteTo(du, hn::LoadU(hn::Rebind<uint16_t, F32>(), &from->bits));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(half, hn::Set(du, 0x7FFFu)));
  const auto scaled = hn::BitCast(du, hn::Mul(hn::BitCast(d, magnitude), hn::Set(d, 0x1p112f)));
  const auto special = hn::VecFromMask(du, hn::Ge(magnitude, hn::Set(du, 0x0F800000u)));
  const auto value = hn::Or(scaled, hn::And(special, hn::Set(du, 0x7F800000u)));
  return hn::BitCast(d, hn::Or(value, hn::ShiftLeft<16>(hn::And(half, hn::Set(du, 0x8000u)))));
#else
  const hn::Rebind<hwy::float16_t, F32> dh;
  return hn::PromoteTo(d, hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(from)));
#endif
}

HWY_INLINE VecF LoadF32(F32 d, const BFloat* from) {
  const hn::RebindToUnsigned<F32> du;
  const auto bits = hn::PromoteTo(du, hn::LoadU(hn::Rebind<uint16_t, F32>(), &from->bits));
  return hn::BitCast(d, hn::ShiftLeft<16>(bits));
}

HWY_INLINE VecF LoadF32(F32 d, const int8_t* from) {
  return hn::ConvertTo(d, hn::PromoteTo(hn::RebindToSigned<F32>(), hn::LoadU(hn::Rebind<int8_t, F32>(), from)));
}

HWY_INLINE void StoreF32([[maybe_unused]] F32 d, VecF v, float* to) { hn::StoreU(v, d, to); }

HWY_INLINE void StoreF32([[maybe_unused]] F32 d, VecF v, Half* to) {
#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
  // Adding a power of two aligned with the half's last bit lets the FPU round subnormals; the others round in integers.
  const hn::RebindToUnsigned<F32> du;
  const auto bits = hn::BitCast(du, v);
  const auto magnitude = hn::And(bits, hn::Set(du, 0x7FFFFFFFu));
  const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 1u));
  const auto normal = hn::ShiftRight<13>(
      hn::Add(hn::Sub(magnitude, hn::Set(du, (127u - 15u) << 23)), hn::Add(odd, hn::Set(du, 0xFFFu))));
  const auto magic = hn::Set(d, 0.5f);
  const auto tiny = hn::Sub(hn::BitCast(du, hn::Add(hn::BitCast(d, magnitude), magic)), hn::BitCast(du, magic));
  auto half = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 113u << 23)), tiny, normal);
  half = hn::IfThenElse(hn::Ge(magnitude, hn::Set(du, 143u << 23)), hn::Set(du, 0x7C00u), half);
  half = hn::IfThenElse(hn::Gt(magnitude, hn::Set(du, 255u << 23)), hn::Set(du, 0x7E00u), half);
  half = hn::Or(half, hn::ShiftRight<16>(hn::And(bits, hn::Set(du, 0x80000000u))));
  const hn::Rebind<uint16_t, F32> d16;
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(hn::RebindToSigned<F32>(), half)), d16, &to->bits);
#else
  const hn::Rebind<hwy::float16_t, F32> dh;
  hn::StoreU(hn::DemoteTo(dh, v), dh, reinterpret_cast<hwy::float16_t*>(to));
#endif
}

HWY_INLINE void StoreF32([[maybe_unused]] F32 d, VecF v, BFloat* to) {
  const hn::RebindToUnsigned<F32> du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFu))));
  const auto quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(du, 0x40u));
  const auto is_nan = hn::Gt(hn::And(bits, hn::Set(du, 0x7FFFFFFFu)), hn::Set(du, 0x7F800000u));
  const auto result = hn::IfThenElse(is_nan, quiet, rounded);
  const hn::Rebind<uint16_t, F32> d16;
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(hn::RebindToSigned<F32>(), result)), d16, &to->bits);
}

// Loads or stores the first `count` lanes (0 < count < kLanes) through a zeroed buffer.
template <class T>
HWY_INLINE VecF LoadFirst(F32 d, const T* from, int64_t count) {
  T buffer[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) buffer[i] = from[i];
  return LoadF32(d, buffer);
}
template <class T>
HWY_INLINE void StoreFirst(F32 d, VecF v, T* to, int64_t count) {
  T buffer[kLanes];
  StoreF32(d, v, buffer);
  for (int64_t i = 0; i < count; ++i) to[i] = buffer[i];
}

// Calls f(i, count) for every vector of a row; count < kLanes only at the end.
template <class F>
HWY_INLINE void ForVectors(int64_t columns, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= columns; i += kLanes) f(i, kLanes);
  if (i < columns) f(i, static_cast<int>(columns - i));
}

HWY_INLINE VecF Get(const float* from, int count) {
  const F32 d;
  return count == kLanes ? hn::LoadU(d, from) : LoadFirst(d, from, count);
}
HWY_INLINE void Put(VecF v, float* to, int count) {
  const F32 d;
  if (count == kLanes) {
    hn::StoreU(v, d, to);
  } else {
    StoreFirst(d, v, to, count);
  }
}

HWY_INLINE float Sum(F32 d, VecF v) { return hn::GetLane(hn::SumOfLanes(d, v)); }
HWY_INLINE float Max(F32 d, VecF v) { return hn::GetLane(hn::MaxOfLanes(d, v)); }

// e^x within 1.2 units in the last place; 0 below -87.33 (no subnormals), saturating above 88.72. Cephes-style
// reduction x = n ln 2 + r with a degree-6 polynomial for e^r, |r| <= ln(2)/2.
HWY_INLINE VecF Exp(F32 d, VecF x) {
  const hn::RebindToSigned<F32> di;
  const auto clamped = hn::Min(hn::Max(x, hn::Set(d, -87.33f)), hn::Set(d, 88.72f));
  const auto n = hn::Round(hn::Mul(clamped, hn::Set(d, 1.44269504088896341f)));
  auto r = hn::NegMulAdd(n, hn::Set(d, 0.693145751953125f), clamped);
  r = hn::NegMulAdd(n, hn::Set(d, 1.42860682030941723212e-6f), r);
  auto p = hn::Set(d, 1.0f / 720);
  p = hn::MulAdd(p, r, hn::Set(d, 8.3333335e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1666668e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666667e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.5f));
  p = hn::MulAdd(hn::Mul(r, r), p, hn::Add(r, hn::Set(d, 1.0f)));
  // Two factors, because 2^128 is not a float: 2^n = 2^(n >> 1) 2^(n - (n >> 1)).
  const auto whole = hn::ConvertTo(di, n);
  const auto half = hn::ShiftRight<1>(whole);
  const auto bias = hn::Set(di, 127);
  const auto low = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const auto high = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(whole, half), bias)));
  const auto result = hn::Mul(hn::Mul(p, low), high);
  // The comparison is false for NaN, and IfThenElse then keeps x itself.
  const auto finite = hn::IfThenElse(hn::Eq(x, x), result, x);
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -87.33f)), finite);
}

// e^x for x <= 0, the softmax case: one scale factor, no clamp, because what lies below -87.33 becomes 0 whatever its
// bits were. A NaN stays.
HWY_INLINE VecF ExpNonPositive(F32 d, VecF x) {
  const hn::RebindToSigned<F32> di;
  const auto n = hn::Round(hn::Mul(x, hn::Set(d, 1.44269504088896341f)));
  auto r = hn::NegMulAdd(n, hn::Set(d, 0.693145751953125f), x);
  r = hn::NegMulAdd(n, hn::Set(d, 1.42860682030941723212e-6f), r);
  auto p = hn::Set(d, 1.0f / 720);
  p = hn::MulAdd(p, r, hn::Set(d, 8.3333335e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1666668e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666667e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.5f));
  p = hn::MulAdd(hn::Mul(r, r), p, hn::Add(r, hn::Set(d, 1.0f)));
  const auto scale = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, n), hn::Set(di, 127))));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -87.33f)), hn::Mul(p, scale));
}

// 2^x within 2.1 units in the last place for finite x <= 1, attention's inner function; 2^0 is 1 exactly. Below -126
// the result is subnormal or 0. A minimax polynomial for 2^r, |r| <= 1/2, relative error 9.2e-8. A NaN stays.
HWY_INLINE VecF Exp2(F32 d, VecF x) {
  const auto n = hn::Round(x);
  const auto r = hn::Sub(x, n);
  auto p = hn::Set(d, 1.32647273e-3f);
  p = hn::MulAdd(p, r, hn::Set(d, 9.67151299e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 5.55073358e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 2.40222424e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 6.93147004e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
#if HWY_TARGET == HWY_AVX3_DL
  return VecF{_mm512_scalef_ps(p.raw, n.raw)};
#else
  const hn::RebindToSigned<F32> di;
  const auto scale = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, n), hn::Set(di, 127))));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -126.0f)), hn::Mul(p, scale));
#endif
}

// 1 / (1 + e^-x)
HWY_INLINE VecF Sigmoid(F32 d, VecF x) {
  const auto one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, Exp(d, hn::Neg(x))));
}

// tanh x within 3 units in the last place: an odd polynomial below 0.625 (Cephes tanhf), else 1 - 2 / (e^2|x| + 1).
HWY_INLINE VecF Tanh(F32 d, VecF x) {
  const auto one = hn::Set(d, 1.0f), two = hn::Set(d, 2.0f);
  const auto a = hn::Abs(x);
  const auto large = hn::Sub(one, hn::Div(two, hn::Add(Exp(d, hn::Mul(a, two)), one)));
  const auto z = hn::Mul(x, x);
  auto p = hn::Set(d, -5.70498872745e-3f);
  p = hn::MulAdd(p, z, hn::Set(d, 2.06390887954e-2f));
  p = hn::MulAdd(p, z, hn::Set(d, -5.37397155531e-2f));
  p = hn::MulAdd(p, z, hn::Set(d, 1.33314422036e-1f));
  p = hn::MulAdd(p, z, hn::Set(d, -3.33332819422e-1f));
  const auto small = hn::MulAdd(hn::Mul(p, z), x, x);
  return hn::IfThenElse(hn::Lt(a, hn::Set(d, 0.625f)), small, hn::CopySign(large, x));
}

}  // namespace cambium::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // per-target guard
