#include <cmath>

#include "base/simd_targets.h"
#include "ops/ops.h"
#include "ops/ranges.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/elementwise.cc"
#include "hwy/foreach_target.h"
#include "ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace cambium::HWY_NAMESPACE {
namespace {

// An activation's value and slope.
struct Silu {
  static HWY_INLINE VecF Value(VecF x) { return hn::Mul(x, Sigmoid(F32(), x)); }
  static HWY_INLINE VecF Slope(VecF x) {
    const auto one = hn::Set(F32(), 1.0f);
    const VecF s = Sigmoid(F32(), x);
    return hn::Mul(s, hn::MulAdd(x, hn::Sub(one, s), one));
  }
};

// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), Hendrycks & Gimpel 2016; as x sigmoid(2 u), which keeps the
// precision of the negative tail.
struct GeluTanh {
  static constexpr float kRoot = 0.7978845608028654f, kCube = 0.044715f;
  static HWY_INLINE VecF Inner(VecF x) {
    const F32 d;
    const VecF square = hn::Mul(x, x);
    return hn::Mul(hn::Mul(x, hn::Set(d, 2 * kRoot)), hn::MulAdd(square, hn::Set(d, kCube), hn::Set(d, 1.0f)));
  }
  static HWY_INLINE VecF Value(VecF x) { return hn::Mul(x, Sigmoid(F32(), Inner(x))); }
  static HWY_INLINE VecF Slope(VecF x) {
    const F32 d;
    const auto one = hn::Set(d, 1.0f);
    const VecF s = Sigmoid(d, Inner(x));
    const VecF inner_slope = hn::Mul(hn::Set(d, 2 * kRoot), hn::MulAdd(hn::Mul(x, x), hn::Set(d, 3 * kCube), one));
    return hn::Mul(s, hn::MulAdd(hn::Mul(x, inner_slope), hn::Sub(one, s), one));
  }
};

// x Phi(x) through libm's erfc, one lane at a time: rare, and exactness is why anybody asks for it.
struct Gelu {
  template <class F>
  static HWY_INLINE VecF Each(VecF x, const F& f) {
    const F32 d;
    HWY_ALIGN float lanes[kLanes];
    hn::Store(x, d, lanes);
    for (int i = 0; i < kLanes; ++i) lanes[i] = f(lanes[i]);
    return hn::Load(d, lanes);
  }
  static HWY_INLINE VecF Value(VecF x) {
    return Each(x, [](float v) { return 0.5f * v * std::erfc(-0.70710678f * v); });
  }
  static HWY_INLINE VecF Slope(VecF x) {
    return Each(
        x, [](float v) { return 0.5f * std::erfc(-0.70710678f * v) + v * 0.3989422804f * std::exp(-0.5f * v * v); });
  }
};

struct Relu {
  static HWY_INLINE VecF Value(VecF x) { return hn::Max(x, hn::Zero(F32())); }
  static HWY_INLINE VecF Slope(VecF x) {
    const F32 d;
    return hn::IfThenElseZero(hn::Gt(x, hn::Zero(d)), hn::Set(d, 1.0f));
  }
};

struct HyperbolicTangent {
  static HWY_INLINE VecF Value(VecF x) { return Tanh(F32(), x); }
  static HWY_INLINE VecF Slope(VecF x) {
    const VecF t = Tanh(F32(), x);
    return hn::NegMulAdd(t, t, hn::Set(F32(), 1.0f));
  }
};

// Calls f with the activation's type.
template <class F>
void WithActivation(Activation act, const F& f) {
  switch (act) {
    case Activation::kSilu:
      return f(Silu());
    case Activation::kGeluTanh:
      return f(GeluTanh());
    case Activation::kGelu:
      return f(Gelu());
    case Activation::kRelu:
      return f(Relu());
    case Activation::kTanh:
      return f(HyperbolicTangent());
  }
}

template <class From, class To>
void ConvertRange(const void* from, int64_t begin, int64_t end, void* to) {
  const F32 d;
  const From* in = static_cast<const From*>(from) + begin;
  To* out = static_cast<To*>(to) + begin;
  ForVectors(end - begin, [&](int64_t i, int count) HWY_ATTR {
    if (count == kLanes) {
      StoreF32(d, LoadF32(d, in + i), out + i);
    } else {
      StoreFirst(d, LoadFirst(d, in + i, count), out + i, count);
    }
  });
}

template <class From>
void ConvertFrom(const void* from, DType to_type, int64_t begin, int64_t end, void* to) {
  if (to_type == DType::kF32) return ConvertRange<From, float>(from, begin, end, to);
  if (to_type == DType::kF16) return ConvertRange<From, Half>(from, begin, end, to);
  ConvertRange<From, BFloat>(from, begin, end, to);
}

}  // namespace

void GatedForward(Activation act, const float* gate, const float* up, int64_t begin, int64_t end, float* y) {
  WithActivation(act, [&](auto f) {
    ForVectors(end - begin, [&](int64_t offset, int count) HWY_ATTR {
      const int64_t i = begin + offset;
      Put(hn::Mul(f.Value(Get(gate + i, count)), Get(up + i, count)), y + i, count);
    });
  });
}

void GatedBackward(Activation act, const float* dy, const float* gate, const float* up, int64_t begin, int64_t end,
                   float* dgate, float* dup) {
  WithActivation(act, [&](auto f) {
    ForVectors(end - begin, [&](int64_t offset, int count) HWY_ATTR {
      const int64_t i = begin + offset;
      const VecF grad = Get(dy + i, count), x = Get(gate + i, count), other = Get(up + i, count);
      Put(hn::Mul(hn::Mul(grad, other), f.Slope(x)), dgate + i, count);
      Put(hn::Mul(grad, f.Value(x)), dup + i, count);
    });
  });
}

void ActivateForward(Activation act, const float* x, int64_t begin, int64_t end, float* y) {
  WithActivation(act, [&](auto f) {
    ForVectors(end - begin, [&](int64_t offset, int count)
                                HWY_ATTR { Put(f.Value(Get(x + begin + offset, count)), y + begin + offset, count); });
  });
}

void ActivateGradient(Activation act, const float* dy, const float* x, int64_t begin, int64_t end, float* dx) {
  WithActivation(act, [&](auto f) {
    ForVectors(end - begin, [&](int64_t offset, int count) HWY_ATTR {
      const int64_t i = begin + offset;
      Put(hn::Mul(Get(dy + i, count), f.Slope(Get(x + i, count))), dx + i, count);
    });
  });
}

// y += scale * x; a scale of one adds exactly.
void AddRange(float scale, const float* x, int64_t begin, int64_t end, float* y) {
  const VecF factor = hn::Set(F32(), scale);
  ForVectors(end - begin, [&](int64_t offset, int count) HWY_ATTR {
    const int64_t i = begin + offset;
    Put(hn::MulAdd(factor, Get(x + i, count), Get(y + i, count)), y + i, count);
  });
}

void ScaleRange(float scale, int64_t begin, int64_t end, float* x) {
  const VecF factor = hn::Set(F32(), scale);
  ForVectors(end - begin, [&](int64_t offset, int count) HWY_ATTR {
    Put(hn::Mul(factor, Get(x + begin + offset, count)), x + begin + offset, count);
  });
}

void SoftCapRange(float cap, int64_t begin, int64_t end, float* x) {
  const VecF factor = hn::Set(F32(), cap), inverse = hn::Set(F32(), 1.0f / cap);
  ForVectors(end - begin, [&](int64_t offset, int count) HWY_ATTR {
    const VecF capped = Tanh(F32(), hn::Mul(Get(x + begin + offset, count), inverse));
    Put(hn::Mul(factor, capped), x + begin + offset, count);
  });
}

void SoftCapBackwardRange(float cap, const float* y, int64_t begin, int64_t end, float* dy) {
  const VecF inverse = hn::Set(F32(), 1.0f / cap), one = hn::Set(F32(), 1.0f);
  ForVectors(end - begin, [&](int64_t offset, int count) HWY_ATTR {
    const int64_t i = begin + offset;
    const VecF t = hn::Mul(Get(y + i, count), inverse);
    Put(hn::Mul(Get(dy + i, count), hn::NegMulAdd(t, t, one)), dy + i, count);
  });
}

// dbias[begin, end) += column sums of dy, in row order.
void SumColumns(const float* dy, int64_t rows, int64_t columns, int64_t begin, int64_t end, float* dbias) {
  ForVectors(end - begin, [&](int64_t offset, int count) HWY_ATTR {
    const int64_t i = begin + offset;
    VecF sum = hn::Zero(F32());
    for (int64_t row = 0; row < rows; ++row) sum = hn::Add(sum, Get(dy + row * columns + i, count));
    Put(hn::Add(Get(dbias + i, count), sum), dbias + i, count);
  });
}

void ConvertAny(DType from_type, const void* from, DType to_type, int64_t begin, int64_t end, void* to) {
  if (from_type == DType::kF32) return ConvertFrom<float>(from, to_type, begin, end, to);
  if (from_type == DType::kF16) return ConvertFrom<Half>(from, to_type, begin, end, to);
  ConvertFrom<BFloat>(from, to_type, begin, end, to);
}

}  // namespace cambium::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <vector>

namespace cambium {

HWY_EXPORT(GatedForward);
HWY_EXPORT(GatedBackward);
HWY_EXPORT(ActivateForward);
HWY_EXPORT(ActivateGradient);
HWY_EXPORT(AddRange);
HWY_EXPORT(ScaleRange);
HWY_EXPORT(SoftCapRange);
HWY_EXPORT(SoftCapBackwardRange);
HWY_EXPORT(SumColumns);
HWY_EXPORT(ConvertAny);

void GatedActivation(ThreadPool& pool, Activation act, Tensor gate, Tensor up, Tensor y) {
  Check(gate.size() == up.size() && gate.size() == y.size(), "GatedActivation shapes agree");
  ForRanges(pool, y.size(), kElementsPerTask, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(GatedForward)(act, gate.f32(), up.f32(), begin, end, y.f32());
  });
}

void GatedActivationBackward(ThreadPool& pool, Activation act, Tensor dy, Tensor gate, Tensor up, Tensor dgate,
                             Tensor dup) {
  Check(dy.size() == gate.size() && dy.size() == up.size(), "GatedActivationBackward shapes agree");
  ForRanges(pool, dy.size(), kElementsPerTask, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(GatedBackward)
    (act, dy.f32(), gate.f32(), up.f32(), begin, end, dgate.f32(), dup.f32());
  });
}

void Activate(ThreadPool& pool, Activation act, Tensor x, Tensor y) {
  Check(x.size() == y.size(), "Activate shapes agree");
  ForRanges(pool, x.size(), kElementsPerTask, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(ActivateForward)(act, x.f32(), begin, end, y.f32());
  });
}

void ActivateBackward(ThreadPool& pool, Activation act, Tensor dy, Tensor x, Tensor dx) {
  Check(x.size() == dy.size() && x.size() == dx.size(), "ActivateBackward shapes agree");
  ForRanges(pool, x.size(), kElementsPerTask, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(ActivateGradient)(act, dy.f32(), x.f32(), begin, end, dx.f32());
  });
}

void Add(ThreadPool& pool, Tensor x, Tensor y) { AddScaled(pool, 1.0f, x, y); }

void AddScaled(ThreadPool& pool, float scale, Tensor x, Tensor y) {
  Check(x.size() == y.size(), "AddScaled shapes agree");
  ForRanges(pool, x.size(), kElementsPerTask, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(AddRange)(scale, x.f32(), begin, end, y.f32());
  });
}

void Scale(ThreadPool& pool, float scale, Tensor x) {
  ForRanges(pool, x.size(), kElementsPerTask, [&](int64_t begin, int64_t end) {
    if (scale == 0) return static_cast<void>(std::fill(x.f32() + begin, x.f32() + end, 0.0f));
    HWY_DYNAMIC_DISPATCH(ScaleRange)(scale, begin, end, x.f32());
  });
}

void SoftCap(ThreadPool& pool, float cap, Tensor x) {
  ForRanges(pool, x.size(), kElementsPerTask, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(SoftCapRange)(cap, begin, end, x.f32());
  });
}

void SoftCapBackward(ThreadPool& pool, float cap, Tensor y, Tensor dy) {
  Check(y.size() == dy.size(), "SoftCapBackward shapes agree");
  ForRanges(pool, y.size(), kElementsPerTask, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(SoftCapBackwardRange)(cap, y.f32(), begin, end, dy.f32());
  });
}

void AddBias(ThreadPool& pool, Tensor bias, Tensor y) {
  Check(bias.size() == y.columns(), "AddBias shapes agree");
  ForRows(pool, y.rows(), y.columns(), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      HWY_DYNAMIC_DISPATCH(AddRange)(1.0f, bias.f32(), 0, y.columns(), y.row(row));
    }
  });
}

void BiasBackward(ThreadPool& pool, Tensor dy, Tensor dbias) {
  Check(dbias.size() == dy.columns(), "BiasBackward shapes agree");
  const int64_t rows = dy.rows(), columns = dy.columns();
  const int64_t piece = rows * columns <= kElementsPerTask ? columns : 64;
  ForRanges(pool, columns, piece, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(SumColumns)(dy.f32(), rows, columns, begin, end, dbias.f32());
  });
}

void Convert(ThreadPool& pool, Tensor from, Tensor to) {
  const auto is_float = [](DType t) { return t == DType::kF32 || t == DType::kF16 || t == DType::kBF16; };
  Check(from.size() == to.size() && is_float(from.dtype) && is_float(to.dtype), "Convert takes float tensors");
  ForRanges(pool, from.size(), kElementsPerTask, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(ConvertAny)(from.dtype, from.data, to.dtype, begin, end, to.data);
  });
}

double SquaredNorm(ThreadPool& pool, Tensor x) {
  const int64_t pieces = (x.size() + kElementsPerTask - 1) / kElementsPerTask;
  std::vector<double> partial(static_cast<size_t>(pieces));
  ForRanges(pool, x.size(), kElementsPerTask, [&](int64_t begin, int64_t end) {
    // Eight chains hide the latency of an addition; their order is part of the result.
    double sums[8] = {};
    const float* values = x.f32();
    int64_t i = begin;
    for (; i + 8 <= end; i += 8) {
      for (int j = 0; j < 8; ++j) sums[j] += double{values[i + j]} * values[i + j];
    }
    for (; i < end; ++i) sums[0] += double{values[i]} * values[i];
    partial[static_cast<size_t>(begin / kElementsPerTask)] =
        ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
  });
  double total = 0;
  for (double sum : partial) total += sum;
  return total;
}

}  // namespace cambium
#endif  // HWY_ONCE
