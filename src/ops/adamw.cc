#include <cmath>

#include "base/simd_targets.h"
#include "ops/ops.h"
#include "ops/ranges.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/adamw.cc"
#include "hwy/foreach_target.h"
#include "ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace cambium::HWY_NAMESPACE {

// m_scale = 1 / (1 - beta1^step), v_scale = 1 / (1 - beta2^step).
void AdamWRange(const AdamW& hyper, float m_scale, float v_scale, float grad_scale, int64_t begin, int64_t end,
                const float* grad, float* param, float* m, float* v) {
  const F32 d;
  const VecF beta1 = hn::Set(d, hyper.beta1), rest1 = hn::Set(d, 1.0f - hyper.beta1);
  const VecF beta2 = hn::Set(d, hyper.beta2), rest2 = hn::Set(d, 1.0f - hyper.beta2);
  const VecF to_m_hat = hn::Set(d, m_scale), to_v_hat = hn::Set(d, v_scale), scale = hn::Set(d, grad_scale);
  const VecF eps = hn::Set(d, hyper.eps), decay = hn::Set(d, hyper.weight_decay), lr = hn::Set(d, hyper.lr);
  ForVectors(end - begin, [&](int64_t offset, int count) HWY_ATTR {
    const int64_t i = begin + offset;
    const VecF g = hn::Mul(Get(grad + i, count), scale), p = Get(param + i, count);
    const VecF new_m = hn::MulAdd(beta1, Get(m + i, count), hn::Mul(rest1, g));
    const VecF new_v = hn::MulAdd(beta2, Get(v + i, count), hn::Mul(rest2, hn::Mul(g, g)));
    const VecF denominator = hn::Add(hn::Sqrt(hn::Mul(new_v, to_v_hat)), eps);
    const VecF step = hn::MulAdd(decay, p, hn::Div(hn::Mul(new_m, to_m_hat), denominator));
    Put(new_m, m + i, count);
    Put(new_v, v + i, count);
    Put(hn::NegMulAdd(lr, step, p), param + i, count);
  });
}

}  // namespace cambium::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cambium {

HWY_EXPORT(AdamWRange);

void AdamWStep(ThreadPool& pool, const AdamW& hyper, int64_t step, float grad_scale, Tensor grad, Tensor param,
               Tensor m, Tensor v) {
  const int64_t size = param.size();
  Check(step >= 1 && grad.size() == size && m.size() == size && v.size() == size, "AdamWStep shapes agree");
  const double count = static_cast<double>(step);
  const float m_scale = static_cast<float>(1.0 / (1.0 - std::pow(double{hyper.beta1}, count)));
  const float v_scale = static_cast<float>(1.0 / (1.0 - std::pow(double{hyper.beta2}, count)));
  ForRanges(pool, size, kElementsPerTask, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(AdamWRange)
    (hyper, m_scale, v_scale, grad_scale, begin, end, grad.f32(), param.f32(), m.f32(), v.f32());
  });
}

}  // namespace cambium
#endif  // HWY_ONCE
