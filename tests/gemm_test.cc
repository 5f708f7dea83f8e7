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

#include "base/isa.h"
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

// Every instruction set that this build and machine have; AMX is beside AVX3_DL.
struct Set {
  int64_t target;
  bool amx;
};
class EveryIsa : public testing::TestWithParam<Set> {
 protected:
  void SetUp() override { Use(GetParam().target, GetParam().amx); }
  void TearDown() override { Use(0, true); }

 private:
  static void Use(int64_t target, bool amx) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().DeInit();
    AllowExtensions(amx);
  }
};
std::vector<Set> Sets() {
  std::vector<Set> sets;
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) sets.push_back({target, false});
  if (HasAmx()) sets.push_back({HWY_AVX3_DL, true});
  return sets;
}
INSTANTIATE_TEST_SUITE_P(Gemm, EveryIsa, testing::ValuesIn(Sets()), [](const auto& info) {
  return std::string(info.param.amx ? "AMX" : hwy::TargetName(info.param.target));
});

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

// A chain of fused multiply-adds, which few rows, streaming the weights, compute as well.
TEST_P(EveryIsa, MatMulUnderF32IsOneChainOfMultiplyAdds) {
  if (GetParam().target != HWY_AVX2 && GetParam().target != HWY_AVX3_DL)
    GTEST_SKIP() << "no fused multiply-add on this target";
  ThreadPool pool(2);
  Workspace workspace;
  for (const Shape& shape : kShapes) {
    const Matrix x(DType::kF32, shape.m, shape.k, 3), weights(DType::kF32, shape.n, shape.k, 4);
    const PackedMatrix w(pool, weights.view());
    OwnedTensor y({shape.m, shape.n}), want({shape.m, shape.n});
    const Product product{&w, y.view};
    DenseMatMul(pool, workspace, Compute::kF32, x.view(), {&product, 1});
    for (int64_t i = 0; i < shape.m; ++i) {
      for (int64_t j = 0; j < shape.n; ++j) {
        float sum = 0.0f;
        for (int64_t p = 0; p < shape.k; ++p) sum = std::fma(x.at(i, p), weights.at(j, p), sum);
        want.view.row(i)[j] = sum;
      }
    }
    EXPECT_TRUE(SameBits(y.view, want.view)) << shape.m << "x" << shape.n << "x" << shape.k;
  }
}

// The head's gradient sums over the vocabulary: thousands of small terms beside a large one, which one fp32 chain
// loses.
TEST_P(EveryIsa, LongSumsOfABackwardKeepTheirSmallTerms) {
  ThreadPool pool(2);
  Workspace workspace;
  constexpr int64_t kTerms = 48 * 1024, kColumns = 32;
  OwnedTensor dy({1, kTerms}), values({kTerms, kColumns}), dx({1, kColumns});
  std::vector<double> want(kColumns);
  std::vector<float> chain(kColumns);
  for (int64_t k = 0; k < kTerms; ++k) {
    dy.view.f32()[k] = k == 7 ? -1.0f : 1.0f / kTerms;
    for (int64_t j = 0; j < kColumns; ++j) {
      const float value = 1.0f + 0.1f * Noise(5, k * kColumns + j);
      values.view.row(k)[j] = value;
      want[static_cast<size_t>(j)] += static_cast<double>(dy.view.f32()[k]) * static_cast<double>(value);
      chain[static_cast<size_t>(j)] = std::fma(dy.view.f32()[k], value, chain[static_cast<size_t>(j)]);
    }
  }
  const PackedMatrix w(pool, values.view);
  MatMulBackward(pool, workspace, Compute::kF32, dy.view, w, dx.view);
  double worst = 0, worst_chain = 0;
  for (int64_t j = 0; j < kColumns; ++j) {
    const double exact = want[static_cast<size_t>(j)];
    worst = std::max(worst, std::fabs(static_cast<double>(dx.view.f32()[j]) - exact));
    worst_chain = std::max(worst_chain, std::fabs(static_cast<double>(chain[static_cast<size_t>(j)]) - exact));
  }
  EXPECT_LT(worst, 2e-6);
  EXPECT_GT(worst_chain, 5e-6);  // the test can fail
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

struct Weights {
  Weights(ThreadPool& pool, DType dtype, int64_t out, int64_t in, uint64_t seed) : values({out, in}) {
    const Matrix random(DType::kF32, out, in, seed);
    OwnedTensor stored(dtype, {out, in});
    Quantize(dtype, random.values.data(), stored.view.data, out * in);
    packed = PackedMatrix(pool, stored.view);
    Dequantize(dtype, stored.view.data, values.view.f32(), out * in);
  }
  PackedMatrix packed;
  OwnedTensor values;  // [out, in], as stored
};

constexpr DType kStored[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0,
                             DType::kQ4_0, DType::kQ4_1, DType::kQ4_K};

TEST_P(EveryIsa, ProductsWithWeightsMatchTheDefinition) {
  ThreadPool pool(2);
  Workspace workspace;
  for (const DType dtype : kStored) {
    // Two k blocks both ways, a tile of less than a panel, a panel pair of which the second is partial.
    const int64_t in = IsQuantized(dtype) ? 1024 : 845, rows = 3;
    const Weights w(pool, dtype, 853, in, 11), small(pool, dtype, 9, in, 12);
    for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
      const auto input = [&](float value) { return compute == Compute::kBF16 ? RoundBF16(value) : value; };
      const std::string where = std::string(Info(dtype).name) + (compute == Compute::kBF16 ? " bf16" : " f32");
      std::vector<float> bias(853);
      for (size_t i = 0; i < bias.size(); ++i) bias[i] = Noise(13, static_cast<int64_t>(i));

      const Matrix x(DType::kF16, rows, in, 14);
      OwnedTensor y({rows, 853}), y_small({rows, 9});
      const Product products[] = {{&w.packed, y.view, bias.data()}, {&small.packed, y_small.view}};
      DenseMatMul(pool, workspace, compute, x.view(), products);
      const auto forward = [&](Tensor values, const float* added, bool magnitude) {
        return [&, values, added, magnitude](int64_t i, int64_t j) {
          double total = added == nullptr ? 0.0 : static_cast<double>(added[j]);
          if (magnitude) total = std::fabs(total);
          for (int64_t p = 0; p < in; ++p) {
            const double product = static_cast<double>(input(x.at(i, p))) * input(values.row(j)[p]);
            total += magnitude ? std::fabs(product) : product;
          }
          return magnitude ? total * 0x1p-24 * (4 + std::sqrt(static_cast<double>(in))) : total;
        };
      };
      EXPECT_LT(
          WorstError(y.view, forward(w.values.view, bias.data(), false), forward(w.values.view, bias.data(), true)),
          1.0)
          << where;
      EXPECT_LT(WorstError(y_small.view, forward(small.values.view, nullptr, false),
                           forward(small.values.view, nullptr, true)),
                1.0)
          << where;

      const Matrix dy(DType::kBF16, rows, 853, 15);
      for (const bool add : {false, true}) {
        OwnedTensor dx = Filled(rows, in, 0.5f);
        MatMulBackward(pool, workspace, compute, dy.view(), w.packed, dx.view, add);
        const auto backward = [&](bool magnitude) {
          return [&, magnitude](int64_t i, int64_t j) {
            double total = add ? 0.5 : 0.0;
            for (int64_t p = 0; p < 853; ++p) {
              const double product = static_cast<double>(input(dy.at(i, p))) * input(w.values.view.row(p)[j]);
              total += magnitude ? std::fabs(product) : product;
            }
            return magnitude ? total * 0x1p-24 * (4 + std::sqrt(853.0)) : total;
          };
        };
        EXPECT_LT(WorstError(dx.view, backward(false), backward(true)), 1.0) << where << " backward, add " << add;
      }
    }
  }
}

// Every count of rows, through each edge of a tile and of a register block; the sums carried over three k blocks.
TEST_P(EveryIsa, AnyNumberOfRowsHasTheSameBits) {
  constexpr int64_t kRows = 70, kOut = 53, kIn = 1312;
  ThreadPool one(1), two(2), three(3);
  Workspace workspace;
  const Weights w(one, DType::kQ4_1, kOut, kIn, 21);
  const Matrix x(DType::kF32, kRows, kIn, 22), b(DType::kBF16, kIn, kOut, 24);
  OwnedTensor y({kRows, kOut}), c = Filled(kRows, kOut, 0.5f);
  const Product whole{&w.packed, y.view};
  DenseMatMul(one, workspace, Compute::kBF16, x.view(), {&whole, 1});
  Gemm(one, workspace, Compute::kBF16, false, false, 0.5f, x.view(), b.view(), -1.0f, c.view);
  for (int64_t rows = 1; rows <= kRows; ++rows) {
    const int64_t first = rows * 7 % (kRows + 1 - rows);
    ThreadPool& pool = rows % 3 == 0 ? three : rows % 3 == 1 ? one : two;
    OwnedTensor part_y({rows, kOut}), part_c = Filled(rows, kOut, 0.5f);
    const Product part{&w.packed, part_y.view};
    DenseMatMul(pool, workspace, Compute::kBF16, x.view().Rows(first, rows), {&part, 1});
    Gemm(pool, workspace, Compute::kBF16, false, false, 0.5f, x.view().Rows(first, rows), b.view(), -1.0f, part_c.view);
    ASSERT_TRUE(SameBits(part_y.view, y.view.Rows(first, rows))) << rows << " rows";
    ASSERT_TRUE(SameBits(part_c.view, c.view.Rows(first, rows))) << rows << " rows";
  }
}

// What packing leaves behind the end of a panel is in no sum, whatever the memory held.
TEST_P(EveryIsa, WhatWasInTheWorkspaceIsInNoSum) {
  ThreadPool pool(2);
  for (const int64_t k : {int64_t{1}, int64_t{7}, int64_t{33}, int64_t{830}}) {
    for (const bool transposed : {false, true}) {
      const Matrix a(DType::kF32, transposed ? k : 19, transposed ? 19 : k, 1);
      const Matrix b(DType::kF32, transposed ? 37 : k, transposed ? k : 37, 2);
      OwnedTensor c({19, 37}), again({19, 37});
      for (OwnedTensor* to : {&c, &again}) {
        Workspace workspace;
        const Workspace::Mark mark = workspace.GetMark();
        std::memset(workspace.Array<uint8_t>(4 << 20), to == &c ? 0 : 0xff, 4 << 20);  // zeros, then NaNs
        workspace.Release(mark);
        Gemm(pool, workspace, Compute::kBF16, transposed, transposed, 1.0f, a.view(), b.view(), 0.0f, to->view);
      }
      EXPECT_TRUE(SameBits(c.view, again.view)) << k << (transposed ? " transposed" : "");
    }
  }
}

TEST_P(EveryIsa, ProductsWithWeightsKeepRowsApart) {
  constexpr int64_t kRows = 61, kOut = 208, kIn = 1024;
  for (const DType dtype : {DType::kBF16, DType::kQ4_1}) {
    for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
      ThreadPool one(1);
      Workspace workspace;
      const Weights w(one, dtype, kOut, kIn, 21);
      const Matrix x(DType::kF32, kRows, kIn, 22), dy(DType::kF32, kRows, kOut, 23);
      OwnedTensor y({kRows, kOut}), dx({kRows, kIn});
      const Product whole{&w.packed, y.view};
      DenseMatMul(one, workspace, compute, x.view(), {&whole, 1});
      MatMulBackward(one, workspace, compute, dy.view(), w.packed, dx.view);
      for (const int threads : {1, 2, 3}) {
        ThreadPool pool(threads);
        for (const auto& [begin, count] : {std::pair<int64_t, int64_t>{0, 1}, {60, 1}, {5, 13}, {0, 61}}) {
          OwnedTensor part_y({count, kOut}), part_dx({count, kIn});
          const Product part{&w.packed, part_y.view};
          DenseMatMul(pool, workspace, compute, x.view().Rows(begin, count), {&part, 1});
          MatMulBackward(pool, workspace, compute, dy.view().Rows(begin, count), w.packed, part_dx.view);
          EXPECT_TRUE(SameBits(part_y.view, y.view.Rows(begin, count))) << begin << " + " << count;
          EXPECT_TRUE(SameBits(part_dx.view, dx.view.Rows(begin, count))) << begin << " + " << count;
        }
      }
    }
  }
}

TEST(Gemm, NoRowsAndNoSummands) {
  ThreadPool pool(2);
  Workspace workspace;
  const Matrix b(DType::kF32, 7, 5, 1);
  OwnedTensor none({0, 7}), empty({0, 5}), c = Filled(7, 5, 2.0f);
  Gemm(pool, workspace, Compute::kF32, false, false, 1.0f, none.view, b.view(), 0.0f, empty.view);
  Gemm(pool, workspace, Compute::kF32, true, false, 1.0f, none.view, empty.view, 0.5f, c.view);
  for (int64_t i = 0; i < 35; ++i) EXPECT_EQ(c.view.f32()[i], 1.0f);
}

// A row block, a chunk of packed rows and a chunk of k blocks each change where sums wait, not what they are.
TEST(Gemm, LargeProductsAreTheSameChains) {
  ThreadPool pool(2);
  Workspace workspace;
  constexpr int64_t kRows = 1030, kOut = 64, kIn = 32 * 1024;
  const Weights w(pool, DType::kQ4_1, kOut, kIn, 31);
  const Matrix x(DType::kF32, kRows, kIn, 32);
  for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
    OwnedTensor whole({kRows, kOut}), part({3, kOut});
    const Product all{&w.packed, whole.view}, some{&w.packed, part.view};
    DenseMatMul(pool, workspace, compute, x.view(), {&all, 1});
    for (const int64_t begin : {int64_t{0}, int64_t{509}, int64_t{1027}}) {
      DenseMatMul(pool, workspace, compute, x.view().Rows(begin, 3), {&some, 1});
      EXPECT_TRUE(SameBits(part.view, whole.view.Rows(begin, 3))) << begin;
    }
  }
}

}  // namespace
}  // namespace cambium
