#include "ops/gemm.h"

#include <gtest/gtest.h>

#include "base/simd_targets.h"
// Highway reads that list.
#include <hwy/targets.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/random.h"
#include "ops/gemm_isa.h"
#include "tensor/quantize.h"

namespace cambium {
namespace {

// Values in [-1, 1) that only depend on seed and index.
float Noise(uint64_t seed, int64_t index) {
  uint64_t x = (seed << 32) + static_cast<uint64_t>(index) + 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return static_cast<float>(static_cast<int32_t>(x >> 32)) * 0x1p-31f;
}

float RoundBF16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
  std::memcpy(&value, &bits, 4);
  return value;
}

// A dense matrix and its values in f32.
struct Matrix {
  Matrix(DType dtype, int64_t rows, int64_t columns, uint64_t seed) : owned(dtype, {rows, columns}) {
    values.resize(static_cast<size_t>(rows * columns));
    for (int64_t i = 0; i < rows * columns; ++i) {
      const float value = Noise(seed, i);
      float& kept = values[static_cast<size_t>(i)];
      if (dtype == DType::kF32) {
        kept = owned.view.f32()[i] = value;
      } else if (dtype == DType::kBF16) {
        kept = RoundBF16(value);
        uint32_t bits;
        std::memcpy(&bits, &kept, 4);
        owned.view.as<uint16_t>()[i] = static_cast<uint16_t>(bits >> 16);
      } else {
        const _Float16 half = static_cast<_Float16>(value);
        kept = static_cast<float>(half);
        owned.view.as<_Float16>()[i] = half;
      }
    }
  }
  float at(int64_t row, int64_t column) const {
    return values[static_cast<size_t>(row * owned.view.columns() + column)];
  }
  Tensor view() const { return owned.view; }
  OwnedTensor owned;
  std::vector<float> values;
};

// The largest |got - want| in units of the rounding error that a chain of fp32 additions may make.
double WorstError(Tensor got, const std::function<double(int64_t, int64_t)>& want,
                  const std::function<double(int64_t, int64_t)>& bound) {
  double worst = 0;
  for (int64_t i = 0; i < got.rows(); ++i) {
    for (int64_t j = 0; j < got.columns(); ++j) {
      const double error = std::fabs(static_cast<double>(got.row(i)[j]) - want(i, j)) / bound(i, j);
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
  }
  return worst;
}

bool SameBits(Tensor a, Tensor b) {
  return a.size() == b.size() && std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())) == 0;
}

OwnedTensor Filled(int64_t rows, int64_t columns, float value) {
  OwnedTensor tensor({rows, columns});
  std::fill_n(tensor.view.f32(), rows * columns, value);
  return tensor;
}

// Every instruction set that this build and machine have.
class EveryIsa : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { hwy::SetSupportedTargetsForTest(GetParam()); }
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }
};
INSTANTIATE_TEST_SUITE_P(Gemm, EveryIsa, testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& info) { return std::string(hwy::TargetName(info.param)); });

struct Shape {
  int64_t m, n, k;
};
constexpr Shape kShapes[] = {{1, 1, 1},    {1, 16, 32},  {3, 5, 7},     {14, 32, 64},  {15, 33, 65},    {29, 48, 31},
                             {8, 576, 96}, {96, 8, 576}, {70, 100, 33}, {45, 97, 801}, {13, 130, 1603}, {300, 16, 8}};

TEST(GemmComparison, SeesAWrongValue) {
  OwnedTensor ones = Filled(3, 4, 1.0f);
  const auto one = [](int64_t, int64_t) { return 1.0; };
  const auto unit = [](int64_t, int64_t) { return 1e-7; };
  EXPECT_EQ(WorstError(ones.view, one, unit), 0.0);
  OwnedTensor other = Filled(3, 4, 1.0f);
  EXPECT_TRUE(SameBits(ones.view, other.view));
  other.view.f32()[11] = std::nextafter(1.0f, 2.0f);
  EXPECT_FALSE(SameBits(ones.view, other.view));
  EXPECT_GT(WorstError(other.view, one, unit), 1.0);
  other.view.f32()[11] = NAN;
  EXPECT_GT(WorstError(other.view, one, unit), 1e9);
}

TEST_P(EveryIsa, GemmMatchesTheDefinition) {
  ThreadPool pool(2);
  Workspace workspace;
  int combination = 0;
  for (const Shape& shape : kShapes) {
    for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
      for (const bool transpose_a : {false, true}) {
        for (const bool transpose_b : {false, true}) {
          constexpr DType kStorage[] = {DType::kF32, DType::kBF16, DType::kF16};
          const DType dtype_a = kStorage[combination % 3], dtype_b = kStorage[combination / 3 % 3];
          const float alpha = combination % 2 == 0 ? 1.0f : 0.75f;
          const float beta = combination / 2 % 3 == 0 ? 0.0f : combination / 2 % 3 == 1 ? 1.0f : -0.5f;
          ++combination;
          const Matrix a(dtype_a, transpose_a ? shape.k : shape.m, transpose_a ? shape.m : shape.k, 1);
          const Matrix b(dtype_b, transpose_b ? shape.n : shape.k, transpose_b ? shape.k : shape.n, 2);
          OwnedTensor c = Filled(shape.m, shape.n, 0.25f);
          Gemm(pool, workspace, compute, transpose_a, transpose_b, alpha, a.view(), b.view(), beta, c.view);
          const auto input = [&](float value) { return compute == Compute::kBF16 ? RoundBF16(value) : value; };
          const auto sum = [&](int64_t i, int64_t j, bool magnitude) {
            double total = beta * (magnitude ? -0.25 : 0.25);
            if (magnitude) total = std::fabs(total);
            for (int64_t p = 0; p < shape.k; ++p) {
              const double product = static_cast<double>(alpha) * input(transpose_a ? a.at(p, i) : a.at(i, p)) *
                                     input(transpose_b ? b.at(j, p) : b.at(p, j));
              total += magnitude ? std::fabs(product) : product;
            }
            return total;
          };
          // Errors of a chain grow like sqrt(k) here; k * 2^-24 is the proven bound.
          const double unit = 0x1p-24 * (4 + std::sqrt(static_cast<double>(shape.k)));
          EXPECT_LT(WorstError(
                        c.view, [&](int64_t i, int64_t j) { return sum(i, j, false); },
                        [&](int64_t i, int64_t j) { return unit * sum(i, j, true) + 1e-30; }),
                    1.0)
              << shape.m << "x" << shape.n << "x" << shape.k << " " << transpose_a << transpose_b << " alpha " << alpha
              << " beta " << beta << (compute == Compute::kBF16 ? " bf16 " : " f32 ") << Info(dtype_a).name << " "
              << Info(dtype_b).name;
        }
      }
    }
  }
}

TEST_P(EveryIsa, GemmUnderF32IsOneChainOfMultiplyAdds) {
  if (GetParam() != HWY_AVX2 && GetParam() != HWY_AVX3_DL) GTEST_SKIP() << "no fused multiply-add on this target";
  ThreadPool pool(2);
  Workspace workspace;
  for (const Shape& shape : kShapes) {
    const Matrix a(DType::kF32, shape.m, shape.k, 3), b(DType::kF32, shape.k, shape.n, 4);
    OwnedTensor c({shape.m, shape.n}), want({shape.m, shape.n});
    Gemm(pool, workspace, Compute::kF32, false, false, 1.0f, a.view(), b.view(), 0.0f, c.view);
    for (int64_t i = 0; i < shape.m; ++i) {
      for (int64_t j = 0; j < shape.n; ++j) {
        float sum = 0.0f;
        for (int64_t p = 0; p < shape.k; ++p) sum = std::fma(a.at(i, p), b.at(p, j), sum);
        want.view.row(i)[j] = sum;
      }
    }
    EXPECT_TRUE(SameBits(c.view, want.view)) << shape.m << "x" << shape.n << "x" << shape.k;
  }
}

// Law 2: rows [begin, begin + count) alone give the bits that they have in the whole.
TEST_P(EveryIsa, GemmRowsDoNotKnowTheirCompany) {
  constexpr int64_t kRows = 75, kK = 810;
  for (const int64_t n : {int64_t{5}, int64_t{130}}) {
    for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
      for (const float beta : {0.0f, 1.0f}) {
        const Matrix a(DType::kF32, kRows, kK, 5), b(DType::kF32, n, kK, 6);
        ThreadPool one(1);
        Workspace workspace;
        OwnedTensor whole = Filled(kRows, n, 0.5f);
        Gemm(one, workspace, compute, false, true, 0.5f, a.view(), b.view(), beta, whole.view);
        for (const int threads : {1, 2, 3}) {
          ThreadPool pool(threads);
          for (const auto& [begin, count] : {std::pair<int64_t, int64_t>{0, 1}, {74, 1}, {3, 4}, {9, 29}, {0, 75}}) {
            OwnedTensor part = Filled(count, n, 0.5f);
            Gemm(pool, workspace, compute, false, true, 0.5f, a.view().Rows(begin, count), b.view(), beta, part.view);
            EXPECT_TRUE(SameBits(part.view, whole.view.Rows(begin, count)))
                << "n " << n << " rows " << begin << " + " << count << " threads " << threads;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace cambium
