#include "tensor/quantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "tensor/half.h"
#include "tensor/scale_pack.h"

namespace cambium {
namespace {

constexpr int kGroup = 32;  // values that share a scale in every type here

// A NaN becomes 0, so that the result is defined for any input.
int Code(float value, int most) {
  const float clamped = value > 0 ? (value < static_cast<float>(most) ? value : static_cast<float>(most)) : 0;
  return static_cast<int>(clamped + 0.5f);
}

// x ~ scale * code + minimum, codes 0..15.
struct Fit {
  float scale = 0, minimum = 0;
};

// Codes 0..15 without leaving float, so that the compiler can use vectors.
inline float CodeF(float x, float inverse, float minimum) {
  const float t = (x - minimum) * inverse;
  const float low = t > 0 ? t : 0;
  const float clamped = low < 15 ? low : 15;
  return (clamped + 0x1.8p23f) - 0x1.8p23f;
}

float SquaredError(const float* x, Fit fit) {
  const float inverse = fit.scale != 0 ? 1 / fit.scale : 0;
  float error[4] = {};
  for (int i = 0; i < kGroup; i += 4) {
    for (int lane = 0; lane < 4; ++lane) {
      const float v = x[i + lane];
      const float e = CodeF(v, inverse, fit.minimum) * fit.scale + fit.minimum - v;
      error[lane] += e * e;
    }
  }
  return (error[0] + error[1]) + (error[2] + error[3]);
}

// The line through (code, x) with the least squared error; its minimum is at most 0 if `negative_minimum`.
Fit LeastSquares(const float* x, Fit guess, bool negative_minimum) {
  const float inverse = guess.scale != 0 ? 1 / guess.scale : 0;
  float sum_c[4] = {}, sum_cc[4] = {}, sum_x[4] = {}, sum_cx[4] = {};
  for (int i = 0; i < kGroup; i += 4) {
    for (int lane = 0; lane < 4; ++lane) {
      const float v = x[i + lane], c = CodeF(v, inverse, guess.minimum);
      sum_c[lane] += c, sum_cc[lane] += c * c, sum_x[lane] += v, sum_cx[lane] += c * v;
    }
  }
  const auto total = [](const float(&s)[4]) { return (s[0] + s[1]) + (s[2] + s[3]); };
  const float c = total(sum_c), cc = total(sum_cc), sx = total(sum_x), cx = total(sum_cx);
  const float determinant = kGroup * cc - c * c;
  if (determinant <= 0) return guess;
  Fit fit{(kGroup * cx - c * sx) / determinant, (cc * sx - c * cx) / determinant};
  if (negative_minimum && fit.minimum > 0) fit = {cc > 0 ? cx / cc : 0, 0};
  return fit;
}

Fit Stored(Fit fit) { return {HalfToFloat(FloatToHalf(fit.scale)), HalfToFloat(FloatToHalf(fit.minimum))}; }

// Tries ranges a little narrower and wider than the values' own and keeps the one whose stored form errs least.
template <class Round>
Fit BestFit(const float* x, bool negative_minimum, const Round& round) {
  float low = *std::min_element(x, x + kGroup);
  const float high = *std::max_element(x, x + kGroup);
  if (negative_minimum && low > 0) low = 0;
  Fit best = round(Fit{(high - low) / 15, low});
  float best_error = SquaredError(x, best);
  for (float levels = 13.5f; levels <= 15.75f; levels += 0.25f) {
    const Fit fit = round(LeastSquares(x, {(high - low) / levels, low}, negative_minimum));
    const float error = SquaredError(x, fit);
    if (error < best_error) best = fit, best_error = error;
  }
  return best;
}

void StoreHalf(uint8_t* at, float value) {
  const uint16_t half = FloatToHalf(value);
  std::memcpy(at, &half, sizeof half);
}

void StoreNibbles(uint8_t* at, const int (&codes)[kGroup]) {
  for (int i = 0; i < 16; ++i) at[i] = static_cast<uint8_t>(codes[i] | codes[i + 16] << 4);
}

void Q8_0(const float* x, uint8_t* b) {
  float most = 0;
  for (int i = 0; i < 32; ++i) most = std::max(most, std::fabs(x[i]));
  const float d = most / 127, inverse = d > 0 ? 1 / d : 0;
  StoreHalf(b, d);
  for (int i = 0; i < 32; ++i) b[2 + i] = static_cast<uint8_t>(Code(std::roundf(x[i] * inverse) + 127, 254) - 127);
}

void Q4_0(const float* x, uint8_t* b) {
  float extreme = 0;  // the value of the largest magnitude gets code 0, which reaches one step further than 15
  for (int i = 0; i < 32; ++i) extreme = std::fabs(x[i]) > std::fabs(extreme) ? x[i] : extreme;
  float best_scale = 0, best_error = INFINITY;
  const auto consider = [&](float scale) {
    scale = HalfToFloat(FloatToHalf(scale));
    const float error = SquaredError(x, {scale, -8 * scale});
    if (error < best_error) best_scale = scale, best_error = error;
  };
  consider(extreme / -8);
  for (float levels = 7; levels <= 8.75f; levels += 0.25f) {
    const float scale = extreme / -levels, inverse = scale != 0 ? 1 / scale : 0;
    float sum_cc = 0, sum_cx = 0;
    for (int i = 0; i < 32; ++i) {
      const float c = CodeF(x[i], inverse, -8 * scale) - 8;
      sum_cc += c * c, sum_cx += c * x[i];
    }
    if (sum_cc > 0) consider(sum_cx / sum_cc);
  }
  StoreHalf(b, best_scale);
  const float inverse = best_scale != 0 ? 1 / best_scale : 0;
  int codes[32];
  for (int i = 0; i < 32; ++i) codes[i] = Code(x[i] * inverse + 8, 15);
  StoreNibbles(b + 2, codes);
}

void Q4_1(const float* x, uint8_t* b) {
  const Fit fit = BestFit(x, false, Stored);
  StoreHalf(b, fit.scale);
  StoreHalf(b + 2, fit.minimum);
  const float inverse = fit.scale != 0 ? 1 / fit.scale : 0;
  int codes[32];
  for (int i = 0; i < 32; ++i) codes[i] = Code((x[i] - fit.minimum) * inverse, 15);
  StoreNibbles(b + 4, codes);
}

void Q4_K(const float* x, uint8_t* b) {
  std::array<Fit, 8> fits;
  float most_scale = 0, most_minimum = 0;
  for (int g = 0; g < 8; ++g) {
    fits[g] = BestFit(x + g * kGroup, true, [](Fit fit) { return fit; });
    most_scale = std::max(most_scale, fits[g].scale);
    most_minimum = std::max(most_minimum, -fits[g].minimum);
  }
  std::memset(b, 0, 144);
  StoreHalf(b, most_scale / 63);
  StoreHalf(b + 2, most_minimum / 63);
  uint16_t stored[2];
  std::memcpy(stored, b, sizeof stored);
  const float d = HalfToFloat(stored[0]), dmin = HalfToFloat(stored[1]);
  for (int g = 0; g < 8; ++g) {
    const float* values = x + g * kGroup;
    const int scale = d > 0 ? Code(fits[g].scale / d, 63) : 0,
              minimum = dmin > 0 ? Code(-fits[g].minimum / dmin, 63) : 0;
    // Rounding one of the pair shifts the best place of the other, so the neighbours are tried too.
    ScaleMin best{scale, minimum};
    float best_error = INFINITY;
    for (int s = std::max(scale - 1, 0); s <= std::min(scale + 1, 63); ++s) {
      for (int m = std::max(minimum - 1, 0); m <= std::min(minimum + 1, 63); ++m) {
        const float error = SquaredError(values, {d * static_cast<float>(s), -dmin * static_cast<float>(m)});
        if (error < best_error) best = {s, m}, best_error = error;
      }
    }
    PackScaleMin(b + 4, g, best);
    const float step = d * static_cast<float>(best.scale), low = dmin * static_cast<float>(best.minimum);
    const float inverse = step != 0 ? 1 / step : 0;
    for (int i = 0; i < kGroup; ++i) {
      b[16 + g / 2 * 32 + i] |= static_cast<uint8_t>(Code((values[i] + low) * inverse, 15) << (g % 2 * 4));
    }
  }
}

void Blocks(DType dtype, void (*encode)(const float*, uint8_t*), const float* src, void* dst, int64_t count) {
  const DTypeInfo& info = Info(dtype);
  auto* out = static_cast<uint8_t*>(dst);
  for (int64_t i = 0; i < count / info.block; ++i) encode(src + i * info.block, out + i * info.bytes);
}

void Halves(uint16_t (*convert)(float), const float* src, void* dst, int64_t count) {
  auto* out = static_cast<uint8_t*>(dst);
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t half = convert(src[i]);
    std::memcpy(out + i * 2, &half, sizeof half);
  }
}

}  // namespace

bool CanQuantize(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kQ8_0 ||
         dtype == DType::kQ4_0 || dtype == DType::kQ4_1 || dtype == DType::kQ4_K;
}

void Quantize(DType dtype, const float* src, void* dst, int64_t count) noexcept {
  Check(CanQuantize(dtype), "Quantize can write this type");
  Check(count % Info(dtype).block == 0, "a quantised run is whole blocks");
  switch (dtype) {
    case DType::kF16:
      return Halves(FloatToHalf, src, dst, count);
    case DType::kBF16:
      return Halves(FloatToBFloat16, src, dst, count);
    case DType::kQ8_0:
      return Blocks(dtype, Q8_0, src, dst, count);
    case DType::kQ4_0:
      return Blocks(dtype, Q4_0, src, dst, count);
    case DType::kQ4_1:
      return Blocks(dtype, Q4_1, src, dst, count);
    case DType::kQ4_K:
      return Blocks(dtype, Q4_K, src, dst, count);
    default:
      std::memcpy(dst, src, static_cast<size_t>(count) * sizeof(float));
  }
}

}  // namespace cambium
