#include <cmath>

#include "base/simd_targets.h"
#include "ops/ops.h"
#include "ops/ranges.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/norm.cc"
#include "hwy/foreach_target.h"
#include "ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace cambium::HWY_NAMESPACE {
namespace {

// Four accumulators over the vectors of a row, then lanes, then the tail: one order for every row.
template <class Term>
HWY_INLINE float SumRow(int64_t columns, const Term& term) {
  const F32 d;
  VecF sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  int64_t i = 0;
  for (; i + 4 * kLanes <= columns; i += 4 * kLanes) {
    sums[0] = term(sums[0], i, kLanes);
    sums[1] = term(sums[1], i + kLanes, kLanes);
    sums[2] = term(sums[2], i + 2 * kLanes, kLanes);
    sums[3] = term(sums[3], i + 3 * kLanes, kLanes);
  }
  for (; i + kLanes <= columns; i += kLanes) sums[0] = term(sums[0], i, kLanes);
  if (i < columns) sums[1] = term(sums[1], i, static_cast<int>(columns - i));
  return Sum(d, hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3])));
}

}  // namespace

void RmsNormRows(const float* x, const float* gain, float eps, int64_t begin, int64_t end, int64_t columns, float* y,
                 float* inv_rms) {
  const F32 d;
  for (int64_t row = begin; row < end; ++row) {
    const float* in = x + row * columns;
    float* out = y + row * columns;
    const float squares = SumRow(columns, [&](VecF sum, int64_t i, int count) HWY_ATTR {
      const VecF v = Get(in + i, count);
      return hn::MulAdd(v, v, sum);
    });
    const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(columns) + eps);
    const VecF factor = hn::Set(d, inverse);
    ForVectors(columns, [&](int64_t i, int count) HWY_ATTR {
      Put(hn::Mul(hn::Mul(Get(in + i, count), factor), Get(gain + i, count)), out + i, count);
    });
    if (inv_rms != nullptr) inv_rms[row] = inverse;
  }
}

// dx = r (g dy - x r^2 mean(g dy x)), r = inv_rms.
void RmsNormBackwardRows(const float* dy, const float* x, const float* gain, const float* inv_rms, int64_t begin,
                         int64_t end, int64_t columns, float* dx) {
  const F32 d;
  for (int64_t row = begin; row < end; ++row) {
    const float* in = x + row * columns;
    const float* grad = dy + row * columns;
    float* out = dx + row * columns;
    const float dot = SumRow(columns, [&](VecF sum, int64_t i, int count) HWY_ATTR {
      return hn::MulAdd(hn::Mul(Get(grad + i, count), Get(gain + i, count)), Get(in + i, count), sum);
    });
    const float r = inv_rms[row];
    const VecF factor = hn::Set(d, r);
    const VecF along = hn::Set(d, dot / static_cast<float>(columns) * r * r * r);
    ForVectors(columns, [&](int64_t i, int count) HWY_ATTR {
      const VecF scaled = hn::Mul(hn::Mul(Get(grad + i, count), Get(gain + i, count)), factor);
      Put(hn::NegMulAdd(Get(in + i, count), along, scaled), out + i, count);
    });
  }
}

void LayerNormRows(const float* x, const float* gain, const float* bias, float eps, int64_t begin, int64_t end,
                   int64_t columns, float* y, float* mean, float* inv_std) {
  const F32 d;
  const float width = static_cast<float>(columns);
  for (int64_t row = begin; row < end; ++row) {
    const float* in = x + row * columns;
    float* out = y + row * columns;
    const float average =
        SumRow(columns, [&](VecF sum, int64_t i, int count) HWY_ATTR { return hn::Add(sum, Get(in + i, count)); }) /
        width;
    const VecF center = hn::Set(d, average);
    const float squares = SumRow(columns, [&](VecF sum, int64_t i, int count) HWY_ATTR {
      VecF v = hn::Sub(Get(in + i, count), center);
      if (count < kLanes) v = hn::IfThenElseZero(hn::FirstN(d, count), v);
      return hn::MulAdd(v, v, sum);
    });
    const float inverse = 1.0f / std::sqrt(squares / width + eps);
    const VecF factor = hn::Set(d, inverse);
    ForVectors(columns, [&](int64_t i, int count) HWY_ATTR {
      const VecF normal = hn::Mul(hn::Sub(Get(in + i, count), center), factor);
      const VecF shift = bias == nullptr ? hn::Zero(d) : Get(bias + i, count);
      Put(hn::MulAdd(normal, Get(gain + i, count), shift), out + i, count);
    });
    if (mean != nullptr) mean[row] = average;
    if (inv_std != nullptr) inv_std[row] = inverse;
  }
}

// dx = r (g dy - mean(g dy) - n mean(g dy n)), n = (x - mean) r, r = inv_std.
void LayerNormBackwardRows(const float* dy, const float* x, const float* gain, const float* mean, const float* inv_std,
                           int64_t begin, int64_t end, int64_t columns, float* dx) {
  const F32 d;
  const float width = static_cast<float>(columns);
  for (int64_t row = begin; row < end; ++row) {
    const float* in = x + row * columns;
    const float* grad = dy + row * columns;
    float* out = dx + row * columns;
    const VecF center = hn::Set(d, mean[row]), factor = hn::Set(d, inv_std[row]);
    const auto scaled = [&](int64_t i, int count)
                            HWY_ATTR { return hn::Mul(Get(grad + i, count), Get(gain + i, count)); };
    const auto normal = [&](int64_t i, int count)
                            HWY_ATTR { return hn::Mul(hn::Sub(Get(in + i, count), center), factor); };
    const float sum =
        SumRow(columns, [&](VecF sum, int64_t i, int count) HWY_ATTR { return hn::Add(sum, scaled(i, count)); });
    const float dot = SumRow(columns, [&](VecF sum, int64_t i, int count)
                                          HWY_ATTR { return hn::MulAdd(scaled(i, count), normal(i, count), sum); });
    const VecF shift = hn::Set(d, sum / width), along = hn::Set(d, dot / width);
    ForVectors(columns, [&](int64_t i, int count) HWY_ATTR {
      const VecF v = hn::NegMulAdd(normal(i, count), along, hn::Sub(scaled(i, count), shift));
      Put(hn::Mul(v, factor), out + i, count);
    });
  }
}

// Columns [begin, end): dgain += sum over rows of dy (x - mean) scale, dbias += sum over rows of dy. mean, dgain and
// dbias may be null.
void NormParameterColumns(const float* dy, const float* x, const float* mean, const float* scale, int64_t rows,
                          int64_t columns, int64_t begin, int64_t end, float* dgain, float* dbias) {
  const F32 d;
  ForVectors(end - begin, [&](int64_t offset, int count) HWY_ATTR {
    const int64_t i = begin + offset;
    VecF gains = hn::Zero(d), biases = hn::Zero(d);
    for (int64_t row = 0; row < rows; ++row) {
      const VecF grad = Get(dy + row * columns + i, count);
      biases = hn::Add(biases, grad);
      if (dgain == nullptr) continue;
      const VecF center = hn::Set(d, mean == nullptr ? 0.0f : mean[row]);
      const VecF normal = hn::Mul(hn::Sub(Get(x + row * columns + i, count), center), hn::Set(d, scale[row]));
      gains = hn::MulAdd(grad, normal, gains);
    }
    if (dgain != nullptr) Put(hn::Add(Get(dgain + i, count), gains), dgain + i, count);
    if (dbias != nullptr) Put(hn::Add(Get(dbias + i, count), biases), dbias + i, count);
  });
}

}  // namespace cambium::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cambium {

HWY_EXPORT(RmsNormRows);
HWY_EXPORT(RmsNormBackwardRows);
HWY_EXPORT(LayerNormRows);
HWY_EXPORT(LayerNormBackwardRows);
HWY_EXPORT(NormParameterColumns);

namespace {

// Each task sums whole columns over all rows in row order.
void NormParameters(ThreadPool& pool, Tensor dy, Tensor x, Tensor mean, Tensor scale, Tensor dgain, Tensor dbias) {
  if (!dgain && !dbias) return;
  const int64_t rows = dy.rows(), columns = dy.columns();
  const int64_t piece = rows * columns <= kElementsPerTask ? columns : 64;
  ForRanges(pool, columns, piece, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(NormParameterColumns)
    (dy.f32(), x.f32(), mean.f32(), scale.f32(), rows, columns, begin, end, dgain.f32(), dbias.f32());
  });
}

}  // namespace

void RmsNorm(ThreadPool& pool, Tensor x, Tensor gain, float eps, Tensor y, Tensor inv_rms) {
  Check(x.size() == y.size() && gain.size() == x.columns(), "RmsNorm shapes agree");
  ForRows(pool, x.rows(), x.columns(), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(RmsNormRows)(x.f32(), gain.f32(), eps, begin, end, x.columns(), y.f32(), inv_rms.f32());
  });
}

void RmsNormBackward(ThreadPool& pool, Tensor dy, Tensor x, Tensor gain, Tensor inv_rms, Tensor dx, Tensor dgain) {
  Check(x.size() == dy.size() && gain.size() == x.columns() && inv_rms.size() == x.rows(),
        "RmsNormBackward shapes agree");
  NormParameters(pool, dy, x, {}, inv_rms, dgain, {});
  ForRows(pool, x.rows(), x.columns(), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(RmsNormBackwardRows)
    (dy.f32(), x.f32(), gain.f32(), inv_rms.f32(), begin, end, x.columns(), dx.f32());
  });
}

void LayerNorm(ThreadPool& pool, Tensor x, Tensor gain, Tensor bias, float eps, Tensor y, Tensor mean, Tensor inv_std) {
  Check(x.size() == y.size() && gain.size() == x.columns(), "LayerNorm shapes agree");
  ForRows(pool, x.rows(), x.columns(), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(LayerNormRows)
    (x.f32(), gain.f32(), bias.f32(), eps, begin, end, x.columns(), y.f32(), mean.f32(), inv_std.f32());
  });
}

void LayerNormBackward(ThreadPool& pool, Tensor dy, Tensor x, Tensor gain, Tensor mean, Tensor inv_std, Tensor dx,
                       Tensor dgain, Tensor dbias) {
  Check(x.size() == dy.size() && gain.size() == x.columns() && mean.size() == x.rows() && inv_std.size() == x.rows(),
        "LayerNormBackward shapes agree");
  NormParameters(pool, dy, x, mean, inv_std, dgain, dbias);
  ForRows(pool, x.rows(), x.columns(), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(LayerNormBackwardRows)
    (dy.f32(), x.f32(), gain.f32(), mean.f32(), inv_std.f32(), begin, end, x.columns(), dx.f32());
  });
}

}  // namespace cambium
#endif  // HWY_ONCE
