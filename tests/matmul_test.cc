#include "ops/matmul.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "base/random.h"
#include "isa_testing.h"
#include "ops/panel.h"
#include "tensor/half.h"
#include "tensor/quantize.h"

namespace cambium {
namespace {

constexpr DType kQuantized[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0,
                                DType::kQ5_1, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};
constexpr DType kAll[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1,
                          DType::kQ5_0, DType::kQ5_1, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

using testing::ForEachIsa;

// A weight matrix as a file stores it, of random bits with scales of ordinary size, and its values.
struct Weights {
  Weights(DType dtype, int64_t out, int64_t in, uint64_t seed = 1) {
    const Philox random(seed);
    stored.resize(out * in / Info(dtype).block * Info(dtype).bytes);
    tensor = Tensor(stored.data(), dtype, {out, in});
    values.resize(out * in);
    if (!IsQuantized(dtype)) {
      for (int64_t i = 0; i < out * in; ++i) values[i] = static_cast<float>(random.Normal(i)) * 0.05f;
      Quantize(dtype, values.data(), stored.data(), out * in);
    } else {
      for (size_t i = 0; i < stored.size(); ++i) stored[i] = static_cast<uint8_t>(random(i)[0]);
      const int bytes = Info(dtype).bytes;
      const bool two = dtype == DType::kQ4_1 || dtype == DType::kQ5_1 || dtype == DType::kQ4_K || dtype == DType::kQ5_K;
      for (size_t block = 0; block < stored.size() / bytes; ++block) {
        uint8_t* at = stored.data() + block * bytes + (dtype == DType::kQ6_K ? 208 : 0);
        for (int field = 0; field < (two ? 2 : 1); ++field) {
          const uint16_t half = FloatToHalf(static_cast<float>(random.Normal(block, 1 + field)) * 0.01f);
          std::memcpy(at + 2 * field, &half, 2);
        }
      }
    }
    Dequantize(dtype, stored.data(), values.data(), out * in);
  }
  std::vector<uint8_t> stored;
  std::vector<float> values;
  Tensor tensor;
};

std::vector<float> RandomRows(int64_t count, uint64_t seed = 2) {
  const Philox random(seed);
  std::vector<float> x(count);
  for (int64_t i = 0; i < count; ++i) x[i] = static_cast<float>(random.Normal(i)) * (i % 37 == 0 ? 8.0f : 1.0f);
  return x;
}

// x with every block of 32 rounded to int8 times a scale, the naive way.
std::vector<double> NaiveInt8(const std::vector<float>& x) {
  std::vector<double> rounded(x.size());
  for (size_t b = 0; b < x.size(); b += 32) {
    float amax = 0;
    for (int i = 0; i < 32; ++i) amax = std::max(amax, std::fabs(x[b + i]));
    for (int i = 0; i < 32; ++i) {
      rounded[b + i] = amax == 0 ? 0 : std::nearbyint(x[b + i] * 127.0 / amax) * (amax / 127.0);
    }
  }
  return rounded;
}

std::vector<double> NaiveBF16(const std::vector<float>& x) {
  std::vector<double> rounded(x.size());
  for (size_t i = 0; i < x.size(); ++i) rounded[i] = BFloat16ToFloat(FloatToBFloat16(x[i]));
  return rounded;
}

template <class T>
std::vector<double> Reference(const std::vector<T>& x, const Weights& w, const float* bias = nullptr) {
  const int64_t in = w.tensor.columns(), out = w.tensor.rows(), rows = static_cast<int64_t>(x.size()) / in;
  std::vector<double> y(rows * out);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < out; ++o) {
      double sum = bias == nullptr ? 0 : bias[o];
      for (int64_t k = 0; k < in; ++k) sum += static_cast<double>(x[r * in + k]) * w.values[o * in + k];
      y[r * out + o] = sum;
    }
  }
  return y;
}

// |a - b| / |b|, over all elements.
template <class T>
double Distance(const std::vector<T>& a, const std::vector<double>& b) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(error / norm);
}

std::vector<float> Multiply(ThreadPool& pool, Compute compute, const std::vector<float>& x, const PackedMatrix& w,
                            const float* bias = nullptr) {
  Workspace workspace;
  const int64_t rows = static_cast<int64_t>(x.size()) / w.in();
  std::vector<float> y(rows * w.out(), -1);
  const Product product{&w, Tensor(y.data(), {rows, w.out()}), bias};
  MatMul(pool, workspace, compute, Tensor(const_cast<float*>(x.data()), {rows, w.in()}), {&product, 1});
  return y;
}

int64_t Inputs(DType dtype) { return Info(dtype).block == 256 ? 768 : IsQuantized(dtype) ? 160 : 83; }

TEST(PackedMatrix, DecodesExactly) {
  ThreadPool pool(2);
  ForEachIsa([&] {
    for (const DType dtype : kAll) {
      SCOPED_TRACE(Info(dtype).name);
      const int64_t out = 37, in = Inputs(dtype);
      const Weights w(dtype, out, in);
      std::vector<int32_t> order(out);
      std::iota(order.begin(), order.end(), 0);
      std::reverse(order.begin(), order.end());
      int64_t released = 0;
      const PackedMatrix packed(
          pool, w.tensor, order, [](void* sum, int64_t, int64_t rows) { *static_cast<int64_t*>(sum) += rows; },
          &released);
      EXPECT_EQ(released, out);
      OwnedTensor all({out, in});
      packed.Unpack(pool, all.view);
      std::vector<float> row(in);
      const PanelLayout layout(dtype, in);
      std::vector<float> panel(in * kPanel);
      for (int64_t o = 0; o < out; ++o) {
        packed.UnpackRow(o, row.data());
        if (o % kPanel == 0) DecodePanel(dtype, in, packed.Panels(pool).get() + o / kPanel * layout.bytes, 0, in, panel.data());
        for (int64_t k = 0; k < in; ++k) {
          const float expected = w.values[order[o] * in + k];
          ASSERT_EQ(row[k], expected) << o << " " << k;
          ASSERT_EQ(all.view.row(o)[k], expected);
          ASSERT_EQ(panel[k * kPanel + o % kPanel], expected) << o << " " << k;
        }
      }
      if (IsQuantized(dtype)) {
        std::vector<float> part(32 * kPanel);
        DecodePanel(dtype, in, packed.Panels(pool).get(), in - 32, 32, part.data());
        DecodePanel(dtype, in, packed.Panels(pool).get(), 0, in, panel.data());
        EXPECT_EQ(std::memcmp(part.data(), panel.data() + (in - 32) * kPanel, part.size() * 4), 0);
      }
    }
  });
}

TEST(PackedMatrix, TakesNoMoreMemoryThanTheFile) {
  ThreadPool pool(1);
  for (const DType dtype : kAll) {
    const Weights w(dtype, 64, 1536);
    const double ratio =
        static_cast<double>(PackedMatrix(pool, w.tensor).bytes()) / static_cast<double>(w.stored.size());
    EXPECT_LE(ratio, 1.03) << Info(dtype).name;  // K-quants keep a byte for each 6-bit scale
  }
}

TEST(PackedMatrix, RepacksDenseTypes) {
  ThreadPool pool(2);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const Weights before(dtype, 21, 40, 1), after(dtype, 21, 40, 9);
    PackedMatrix packed(pool, before.tensor);
    OwnedTensor values({21, 40});
    std::copy(after.values.begin(), after.values.end(), values.view.f32());
    packed.Repack(pool, values.view);
    OwnedTensor all({21, 40});
    packed.Unpack(pool, all.view);
    EXPECT_EQ(std::memcmp(all.view.data, after.values.data(), after.values.size() * 4), 0);
  }
}

TEST(MatMul, AgreesWithDoublePrecision) {
  ThreadPool pool(2);
  ForEachIsa([&] {
    for (const DType dtype : kAll) {
      SCOPED_TRACE(Info(dtype).name);
      const int64_t out = 53, in = Inputs(dtype);
      const Weights w(dtype, out, in);
      const PackedMatrix packed(pool, w.tensor);
      const std::vector<float> bias = RandomRows(out, 7);
      for (const int64_t rows : {1, 3, 8, 21}) {
        const std::vector<float> x = RandomRows(rows * in);
        const std::vector<double> exact = Reference(x, w, bias.data());
        EXPECT_LT(Distance(Multiply(pool, Compute::kF32, x, packed, bias.data()), exact), 1e-6) << rows;
        const std::vector<float> served = Multiply(pool, Compute::kInt8, x, packed, bias.data());
        if (dtype == DType::kBF16) {  // in bf16 pairs where the CPU multiplies them
          const double rounded = Distance(served, Reference(NaiveBF16(x), w, bias.data()));
          EXPECT_LT(std::min(rounded, Distance(served, exact)), 1e-6) << rows;
          continue;
        }
        if (!IsQuantized(dtype)) {
          EXPECT_LT(Distance(served, exact), 1e-6) << rows;
          continue;
        }
        const std::vector<double> naive = Reference(NaiveInt8(x), w, bias.data());
        EXPECT_LT(Distance(served, naive), 1e-3) << rows;  // a tie may round the other way
        EXPECT_LT(Distance(served, exact), 2 * Distance(naive, exact)) << rows;
        EXPECT_LT(Distance(served, exact), 0.02) << rows;
      }
    }
  });
}

TEST(MatMul, ExtremeIntegersDoNotSaturate) {
  ThreadPool pool(1);
  ForEachIsa([&] {
    for (const DType dtype : kQuantized) {
      SCOPED_TRACE(Info(dtype).name);
      const int64_t in = 256;
      for (const int fill : {0x00, 0x7F, 0x80, 0xFF}) {
        Weights w(dtype, 16, in);
        const Weights scales = w;
        std::fill(w.stored.begin(), w.stored.end(), static_cast<uint8_t>(fill));
        const int bytes = Info(dtype).bytes, at = dtype == DType::kQ6_K ? 208 : 0;
        for (size_t b = 0; b < w.stored.size(); b += bytes) std::memcpy(&w.stored[b + at], &scales.stored[b + at], 2);
        for (size_t b = 0; b < w.stored.size(); b += bytes) {
          const bool two =
              dtype == DType::kQ4_1 || dtype == DType::kQ5_1 || dtype == DType::kQ4_K || dtype == DType::kQ5_K;
          if (two) std::memcpy(&w.stored[b + 2], &scales.stored[b + 2], 2);
        }
        w.tensor.data = w.stored.data();
        Dequantize(dtype, w.stored.data(), w.values.data(), 16 * in);
        const PackedMatrix packed(pool, w.tensor);
        for (const float sign : {1.0f, -1.0f}) {
          const std::vector<float> x(in, sign);
          const std::vector<double> exact = Reference(x, w);
          const std::vector<float> y = Multiply(pool, Compute::kInt8, x, packed);
          // Terms may cancel, so errors are held against the sum of magnitudes.
          for (int o = 0; o < 16; ++o) {
            double magnitude = 1e-30;
            for (int64_t k = 0; k < in; ++k) magnitude += std::fabs(w.values[o * in + k]);
            EXPECT_NEAR(y[o], exact[o], 1e-4 * magnitude) << fill << " " << o;
          }
        }
      }
    }
  });
}

TEST(MatMul, RowsDoNotKnowTheirCompany) {
  ThreadPool one(1), two(2), three(3);
  ForEachIsa([&] {
    for (const DType dtype : kAll) {
      SCOPED_TRACE(Info(dtype).name);
      const int64_t out = 53, in = Inputs(dtype);
      const Weights w(dtype, out, in);
      const PackedMatrix packed(one, w.tensor);
      const std::vector<float> x = RandomRows(70 * in), bias = RandomRows(out, 7);
      for (const Compute compute : {Compute::kInt8, Compute::kF32}) {
        const std::vector<float> all = Multiply(one, compute, x, packed, bias.data());
        for (int64_t rows = 1; rows <= 70; ++rows) {
          const int64_t first = (rows * 7) % (71 - rows);
          const std::vector<float> some(x.begin() + first * in, x.begin() + (first + rows) * in);
          ThreadPool& pool = rows % 3 == 0 ? three : rows % 3 == 1 ? one : two;
          const std::vector<float> y = Multiply(pool, compute, some, packed, bias.data());
          ASSERT_EQ(std::memcmp(y.data(), all.data() + first * out, y.size() * 4), 0) << rows << " rows";
        }
      }
    }
  });
}

TEST(MatMul, ProductsDoNotKnowTheirCompany) {
  ThreadPool pool(3);
  ForEachIsa([&] {
    const int64_t in = 256;
    const Weights a(DType::kQ4_1, 53, in, 1), b(DType::kQ6_K, 16, in, 2), c(DType::kF16, 7, in, 3);
    const PackedMatrix pa(pool, a.tensor), pb(pool, b.tensor), pc(pool, c.tensor);
    for (const int64_t rows : {1, 5, 30}) {
      const std::vector<float> x = RandomRows(rows * in);
      std::vector<float> ya(rows * 53), yb(rows * 16), yc(rows * 7);
      const Product products[] = {{&pa, Tensor(ya.data(), {rows, 53})},
                                  {&pb, Tensor(yb.data(), {rows, 16})},
                                  {&pc, Tensor(yc.data(), {rows, 7})}};
      Workspace workspace;
      MatMul(pool, workspace, Compute::kInt8, Tensor(const_cast<float*>(x.data()), {rows, in}), products);
      EXPECT_EQ(ya, Multiply(pool, Compute::kInt8, x, pa));
      EXPECT_EQ(yb, Multiply(pool, Compute::kInt8, x, pb));
      EXPECT_EQ(yc, Multiply(pool, Compute::kInt8, x, pc));
    }
  });
}

TEST(MatMul, HalfActivationsAreConvertedExactly) {
  ThreadPool pool(2);
  const int64_t in = 64, rows = 3;
  const Weights w(DType::kQ4_1, 20, in);
  const PackedMatrix packed(pool, w.tensor);
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    const std::vector<float> x = RandomRows(rows * in);
    std::vector<uint16_t> stored(x.size());
    std::vector<float> values(x.size()), y(rows * 20);
    Quantize(dtype, x.data(), stored.data(), rows * in);
    Dequantize(dtype, stored.data(), values.data(), rows * in);
    Workspace workspace;
    const Product product{&packed, Tensor(y.data(), {rows, 20})};
    MatMul(pool, workspace, Compute::kInt8, Tensor(stored.data(), dtype, {rows, in}), {&product, 1});
    EXPECT_EQ(y, Multiply(pool, Compute::kInt8, values, packed));
  }
}

TEST(MatMul, WhatIsNotFiniteStaysSo) {
  ThreadPool pool(1);
  ForEachIsa([&] {
    const Weights w(DType::kQ4_1, 20, 64);
    const PackedMatrix packed(pool, w.tensor);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> x = RandomRows(64);
      x[40] = bad;
      for (const float y : Multiply(pool, Compute::kInt8, x, packed)) EXPECT_FALSE(std::isfinite(y));
    }
    const std::vector<float> zeros(64, 0.0f);
    for (const float y : Multiply(pool, Compute::kInt8, zeros, packed)) EXPECT_EQ(y, 0);
    const std::vector<float> tiny(64, 1e-40f);
    for (const float y : Multiply(pool, Compute::kInt8, tiny, packed)) EXPECT_NEAR(y, 0, 1e-36);
  });
}

TEST(Distance, SeesOneWrongElement) {
  const Weights w(DType::kQ4_1, 53, 160);
  const std::vector<float> x = RandomRows(160);
  std::vector<double> y = Reference(x, w), wrong = y;
  EXPECT_EQ(Distance(y, y), 0);
  wrong[7] += 0.05 * std::fabs(*std::max_element(y.begin(), y.end()));
  EXPECT_GT(Distance(wrong, y), 1e-3);
}

TEST(Isa, TakesTheNamesItKnows) {
  const auto apply = [](const char* value) {
    setenv("CAMBIUM_ISA", value, 1);
    ApplyIsaFromEnv();
  };
  apply("emu128");
  EXPECT_STREQ(IsaName(), "emu128");
  EXPECT_THROW(apply("sse9"), Error);
  apply("");
  unsetenv("CAMBIUM_ISA");
  hwy::SetSupportedTargetsForTest(0);
  AllowExtensions(true);
  hwy::GetChosenTarget().DeInit();
}

}  // namespace
}  // namespace cambium
