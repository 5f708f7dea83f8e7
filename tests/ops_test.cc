#include <bit>
#include <cstring>

#include "op_cases.h"
#include "ops_testing.h"

namespace cambium {
namespace {

using testing::Floats;
using testing::ForEachIsa;
using testing::OpCase;
using testing::OpCases;
using testing::RandomFloats;
using testing::RelativeError;
using testing::ToDouble;

std::vector<Floats> Inputs(const OpCase& op, int64_t rows) {
  std::vector<Floats> inputs;
  for (const testing::OpInput& input : op.inputs) {
    inputs.push_back(RandomFloats((input.per_row ? rows : 1) * input.columns, 10 + inputs.size(), 2.0));
  }
  return inputs;
}

std::vector<std::vector<double>> ToDoubles(const std::vector<Floats>& inputs) {
  std::vector<std::vector<double>> result;
  for (const Floats& input : inputs) result.push_back(ToDouble(input));
  return result;
}

TEST(Ops, MatchTheirDefinitions) {
  ForEachIsa([] {
    for (const int64_t columns : {1, 5, 37, 64, 576, 1000}) {
      for (const OpCase& op : OpCases(columns)) {
        if (op.name == "LayerNorm" && columns == 1) continue;  // 0 / sqrt(eps): all cancellation
        SCOPED_TRACE(op.name + " of " + std::to_string(columns));
        ThreadPool pool(2);
        const std::vector<Floats> inputs = Inputs(op, 7);
        EXPECT_LT(RelativeError(op.forward(pool, 7, inputs), op.define(ToDoubles(inputs))), op.tolerance);
      }
    }
  });
}

TEST(Ops, GradientsMatchComplexSteps) {
  for (const int64_t columns : {6, 37}) {
    for (const OpCase& op : OpCases(columns)) {
      constexpr int64_t kRows = 6;
      const std::vector<Floats> inputs = Inputs(op, kRows);
      const std::vector<double> y = op.define(ToDoubles(inputs));
      const Floats dy = RandomFloats(static_cast<int64_t>(y.size()), 5);
      std::vector<std::vector<double>> want;
      for (size_t i = 0; i < inputs.size(); ++i) {
        std::vector<reference::Values<reference::Complex>> point;
        for (const Floats& input : inputs) point.emplace_back(input.begin(), input.end());
        want.push_back(reference::ComplexStepGradient(ToDouble(inputs[i]), [&](const auto& z) {
          point[i] = z;
          const auto out = op.define_complex(point);
          reference::Complex loss = 0;
          for (size_t j = 0; j < out.size(); ++j) loss += out[j] * double{dy[j]};
          return loss;
        }));
      }
      ForEachIsa([&] {
        ThreadPool pool(2);
        const std::vector<Floats> zero = op.backward(pool, kRows, dy, inputs, 0.0f);
        const std::vector<Floats> added = op.backward(pool, kRows, dy, inputs, 0.5f);
        for (size_t i = 0; i < inputs.size(); ++i) {
          SCOPED_TRACE(op.name + " of " + std::to_string(columns) + ", input " + std::to_string(i));
          EXPECT_LT(RelativeError(zero[i], want[i]), 4e-6);
          for (size_t j = 0; j < zero[i].size(); ++j) {
            const float start = op.inputs[i].per_row ? 0.0f : 0.5f;
            EXPECT_NEAR(added[i][j], zero[i][j] + start, 1e-5) << "parameter gradients add";
          }
        }
      });
    }
  }
}

TEST(Ops, ThreadsChangeNoBit) {
  ForEachIsa([] {
    for (const OpCase& op : OpCases(612)) {
      SCOPED_TRACE(op.name);
      constexpr int64_t kRows = 150;
      const std::vector<Floats> inputs = Inputs(op, kRows);
      ThreadPool one(1), two(2), three(3);
      const Floats y = op.forward(one, kRows, inputs);
      EXPECT_EQ(y, op.forward(two, kRows, inputs));
      EXPECT_EQ(y, op.forward(three, kRows, inputs));
      const Floats dy = RandomFloats(static_cast<int64_t>(y.size()), 5);
      const std::vector<Floats> gradients = op.backward(one, kRows, dy, inputs, 0.0f);
      EXPECT_EQ(gradients, op.backward(two, kRows, dy, inputs, 0.0f));
      EXPECT_EQ(gradients, op.backward(three, kRows, dy, inputs, 0.0f));
    }
  });
}

// Row 0 alone has the bits that it has in company (its position and target are those of row 0 either way).
TEST(Ops, RowsDoNotKnowTheirCompany) {
  ForEachIsa([] {
    for (const int64_t columns : {37, 576}) {
      for (const OpCase& op : OpCases(columns)) {
        SCOPED_TRACE(op.name);
        ThreadPool pool(2);
        std::vector<Floats> inputs = Inputs(op, 90);
        Floats together = op.forward(pool, 90, inputs);
        for (size_t i = 0; i < inputs.size(); ++i) inputs[i].resize(static_cast<size_t>(op.inputs[i].columns));
        const Floats alone = op.forward(pool, 1, inputs);
        together.resize(alone.size());
        EXPECT_EQ(together, alone);
      }
    }
  });
}

TEST(Ops, LowRankMatchesItsDefinitionRowByRow) {
  const struct {
    int64_t rows, in, rank, out;
  } shapes[] = {{7, 37, 1, 5}, {1, 576, 8, 1536}, {9, 64, 13, 100}, {40, 576, 40, 600}, {2, 1, 3, 1}};
  ForEachIsa([&] {
    for (const auto& s : shapes) {
      SCOPED_TRACE(std::to_string(s.rows) + " rows of " + std::to_string(s.in));
      ThreadPool one(1), two(2);
      Workspace workspace;
      Floats x = RandomFloats(s.rows * s.in, 1), a = RandomFloats(s.rank * s.in, 2),
             b = RandomFloats(s.rank * s.out, 3);
      const Floats start = RandomFloats(s.rows * s.out, 4);
      const auto run = [&](ThreadPool& pool, int64_t rows) {
        Floats y(start.begin(), start.begin() + rows * s.out);
        LowRank(pool, workspace, Tensor(x.data(), {rows, s.in}), Tensor(a.data(), {s.rank, s.in}),
                Tensor(b.data(), {s.rank, s.out}), 0.7f, Tensor(y.data(), {rows, s.out}));
        return y;
      };
      std::vector<double> want(start.begin(), start.end());
      for (int64_t r = 0; r < s.rows; ++r) {
        for (int64_t k = 0; k < s.rank; ++k) {
          double low = 0;
          for (int64_t i = 0; i < s.in; ++i) low += double{x[r * s.in + i]} * a[k * s.in + i];
          for (int64_t j = 0; j < s.out; ++j) want[r * s.out + j] += 0.7 * low * b[k * s.out + j];
        }
      }
      const Floats y = run(two, s.rows);
      EXPECT_LT(RelativeError(y, want), 1e-6);
      want[0] += 0.1;
      EXPECT_GT(RelativeError(y, want), 1e-6) << "the comparison sees a wrong value";
      EXPECT_EQ(run(one, s.rows), y);
      for (int64_t rows = 1; rows < s.rows; ++rows) {
        EXPECT_EQ(run(two, rows), Floats(y.begin(), y.begin() + rows * s.out)) << rows << " of the rows";
      }
      std::vector<uint16_t> memory(static_cast<size_t>(PackedLowRank::Size(s.in, s.rank, s.out)));
      const PackedLowRank term(Tensor(a.data(), {s.rank, s.in}), Tensor(b.data(), {s.rank, s.out}), 0.7f,
                               memory.data());
      const auto packed = [&](ThreadPool& pool, int64_t rows) {
        Floats sum(start.begin(), start.begin() + rows * s.out);
        LowRank(pool, workspace, Tensor(x.data(), {rows, s.in}), term, Tensor(sum.data(), {rows, s.out}));
        return sum;
      };
      want[0] -= 0.1;
      const Floats sum = packed(two, s.rows);
      EXPECT_LT(RelativeError(sum, want), 5e-4) << "what f16 rounds away";
      for (int64_t rows = 1; rows <= s.rows; ++rows) {
        EXPECT_EQ(packed(one, rows), Floats(sum.begin(), sum.begin() + rows * s.out)) << rows << " of the rows";
      }
    }
  });
}

TEST(Ops, TargetLogProbsAreMinusTheLoss) {
  ForEachIsa([] {
    constexpr int64_t kRows = 5, kVocab = 1003;
    ThreadPool pool(2);
    Floats logits = RandomFloats(kRows * kVocab, 1, 8.0), log_probs(kRows), loss(kRows), weights(kRows, 1.0f);
    const Floats before = logits;
    const std::vector<int32_t> targets = {0, 1002, 7, 500, 999};
    TargetLogProbs(pool, testing::View(logits, kRows), targets, log_probs);
    EXPECT_EQ(logits, before);
    EXPECT_LT(RelativeError(log_probs,
                            [&] {
                              auto want = reference::CrossEntropy(ToDouble(before), targets);
                              for (double& x : want) x = -x;
                              return want;
                            }()),
              1e-6);
    CrossEntropy(pool, testing::View(logits, kRows), targets, weights, loss);
    for (size_t i = 0; i < kRows; ++i) EXPECT_EQ(loss[i], -log_probs[i]);
  });
}

TEST(Ops, CrossEntropyKeepsNotANumber) {
  ForEachIsa([] {
    ThreadPool pool(1);
    for (const size_t place : {size_t{3}, size_t{40}, size_t{98}}) {
      Floats logits(99, 1.0f), loss(1), weights(1, 1.0f);
      logits[place] = NAN;
      const std::vector<int32_t> targets = {5};
      CrossEntropy(pool, testing::View(logits, 1), targets, weights, loss);
      EXPECT_TRUE(std::isnan(loss[0]));
    }
  });
}

TEST(Ops, AdamWFollowsItsDefinition) {
  ForEachIsa([] {
    constexpr int64_t kSize = 1003;
    ThreadPool pool(2);
    const AdamW hyper{.lr = 1e-2f, .weight_decay = 0.1f};
    Floats param = RandomFloats(kSize, 1), m(kSize), v(kSize);
    std::vector<double> want = ToDouble(param), want_m(kSize), want_v(kSize);
    for (int64_t step = 1; step <= 20; ++step) {
      Floats grad = RandomFloats(kSize, 100 + static_cast<uint64_t>(step));
      AdamWStep(pool, hyper, step, 0.25f, testing::View(grad, 1), testing::View(param, 1), testing::View(m, 1),
                testing::View(v, 1));
      for (size_t i = 0; i < want.size(); ++i) {
        want[i] = reference::AdamW(hyper, step, 0.25 * grad[i], want[i], want_m[i], want_v[i]);
      }
    }
    EXPECT_LT(RelativeError(param, want), 3e-6);
    EXPECT_LT(RelativeError(m, want_m), 1e-6);
    EXPECT_LT(RelativeError(v, want_v), 1e-6);
  });
}

TEST(Ops, SquaredNormIsExactAndSeesWhatIsNotFinite) {
  ThreadPool one(1), three(3);
  Floats x = RandomFloats(100001, 1);
  double want = 0;
  for (float value : x) want += double{value} * value;
  const double norm = SquaredNorm(one, testing::View(x, 1));
  EXPECT_NEAR(norm, want, 1e-11 * want);
  EXPECT_EQ(norm, SquaredNorm(three, testing::View(x, 1)));
  x[77777] = INFINITY;
  EXPECT_FALSE(std::isfinite(SquaredNorm(three, testing::View(x, 1))));
  x[77777] = NAN;
  EXPECT_FALSE(std::isfinite(SquaredNorm(three, testing::View(x, 1))));
}

// Nearest-even rounding of a float to `kept` mantissa bits, by its definition; half's exponent range if `half`.
double Rounded(float value, bool half) {
  if (!std::isfinite(value) || value == 0) return value;
  int exponent;
  std::frexp(value, &exponent);
  const int kept = half ? 11 : 8, smallest = half ? -24 : -133;
  const double unit = std::ldexp(1.0, std::max(exponent - kept, smallest));
  const double rounded = std::nearbyint(value / unit) * unit;
  const double most = half ? 65504.0 : 0x1.FEp127;
  return std::abs(rounded) > most ? std::copysign(INFINITY, value) : rounded;
}

TEST(Ops, ConvertRoundsToNearestEven) {
  Floats values = {0.0f,     -0.0f,     1.0f,           65504.0f,       65519.0f,    65520.0f,   -70000.0f,
                   1e-8f,    2.98e-8f,  2.99e-8f,       6e-5f,          6.1e-5f,     3.4e38f,    1e-40f,
                   INFINITY, -INFINITY, 1.00048828125f, 1.00146484375f, 1.00390625f, 1.01171875f};
  const Philox random(9);
  for (uint64_t i = 0; i < 20000; ++i) {
    values.push_back(static_cast<float>(random.Normal(i) * std::exp2(random.Uniform(i, 1) * 60 - 40)));
  }
  const int64_t size = static_cast<int64_t>(values.size());
  ForEachIsa([&] {
    ThreadPool pool(2);
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      std::vector<uint16_t> bits(values.size());
      Floats back(values.size());
      Convert(pool, Tensor(values.data(), {size}), Tensor(bits.data(), dtype, {size}));
      Convert(pool, Tensor(bits.data(), dtype, {size}), Tensor(back.data(), {size}));
      for (size_t i = 0; i < values.size(); ++i) {
        ASSERT_EQ(back[i], Rounded(values[i], dtype == DType::kF16)) << Info(dtype).name << " of " << values[i];
        ASSERT_EQ(std::signbit(back[i]), std::signbit(values[i]));
      }
      float nan = NAN;
      Convert(pool, Tensor(&nan, {1}), Tensor(bits.data(), dtype, {1}));
      Convert(pool, Tensor(bits.data(), dtype, {1}), Tensor(back.data(), {1}));
      EXPECT_TRUE(std::isnan(back[0]));
    }
  });
}

TEST(Ops, EveryIsaHasItsTurn) {
  std::vector<std::string> runs;
  ForEachIsa([&] { runs.push_back(IsaName()); });
  const int64_t targets = hwy::SupportedTargets();
  std::vector<std::string> all;
  if (HasAmx()) all.push_back("amx");
  if ((targets & HWY_AVX3_DL) != 0) all.push_back("avx3_dl");
  if ((targets & HWY_AVX3_DL) != 0) all.push_back("avx_vnni");  // whose dot products run in 256 bits too
  if ((targets & HWY_AVX2) != 0) all.push_back("avx2");
  all.push_back("emu128");
  if ((targets & HWY_AVX3_DL) == 0) std::erase(runs, "avx_vnni");  // for all that Highway knows
  EXPECT_EQ(runs, all);
}

TEST(Ops, ComparisonSeesAFlaw) {
  EXPECT_GT(RelativeError({1.0f, 2.0f}, {1.0, 2.001}), 1e-4);
  EXPECT_EQ(RelativeError({1.0f, NAN}, {1.0, 2.0}), INFINITY);
  EXPECT_EQ(RelativeError({1.0f}, {1.0, 2.0}), INFINITY);
  EXPECT_NE(Rounded(1.0f + 0x1p-11f, true), 1.0 + 0x1p-11);
}

}  // namespace
}  // namespace cambium
