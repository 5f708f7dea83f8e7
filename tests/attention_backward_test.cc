#include <algorithm>

#include "ops/attention.h"
#include "ops_testing.h"
#include "reference.h"

namespace cambium {
namespace {

using testing::ForEachIsa;
using testing::RandomFloats;
using testing::RelativeError;
using testing::ToDouble;
using Floats = std::vector<float>;
using Doubles = std::vector<double>;

struct Case {
  AttentionShape shape;
  int64_t prefix;                                  // keys before the segments that have a past
  std::vector<std::pair<bool, int64_t>> segments;  // (has the prefix, rows)
  int64_t rows() const {
    int64_t sum = 0;
    for (const auto& segment : segments) sum += segment.second;
    return sum;
  }
};

enum Name { kQ, kK, kV, kPrefixK, kPrefixV, kNames };

template <class S>
std::vector<S> Slice(const std::vector<S>& values, int64_t begin, int64_t count) {
  return {values.begin() + begin, values.begin() + begin + count};
}

// The whole call by the definition: every segment's rows attend to the prefix, if it has one, and to themselves.
template <class S>
std::vector<S> Define(const Case& c, const std::vector<std::vector<S>>& in, std::vector<S>* lse = nullptr) {
  const int64_t columns = c.shape.heads * c.shape.head_dim, kv_columns = c.shape.kv_heads * c.shape.head_dim;
  std::vector<S> out;
  int64_t begin = 0;
  for (const auto& [has_prefix, rows] : c.segments) {
    std::vector<S> k = has_prefix ? in[kPrefixK] : std::vector<S>(), v = has_prefix ? in[kPrefixV] : std::vector<S>();
    for (const S& x : Slice(in[kK], begin * kv_columns, rows * kv_columns)) k.push_back(x);
    for (const S& x : Slice(in[kV], begin * kv_columns, rows * kv_columns)) v.push_back(x);
    std::vector<S> segment_lse;
    const auto part = reference::Attention(c.shape, has_prefix ? c.prefix : 0, {},
                                           Slice(in[kQ], begin * columns, rows * columns), k, v, &segment_lse);
    out.insert(out.end(), part.begin(), part.end());
    if (lse != nullptr) lse->insert(lse->end(), segment_lse.begin(), segment_lse.end());
    begin += rows;
  }
  return out;
}

// The gradient of sum(dout * out) for one chain, from the textbook formula: ds = p (dp - sum p dp).
void ChainGradient(const AttentionShape& shape, int64_t past, const Doubles& q, const Doubles& k, const Doubles& v,
                   const Doubles& dout, Doubles& dq, Doubles& dk, Doubles& dv) {
  const size_t width = static_cast<size_t>(shape.head_dim), heads = static_cast<size_t>(shape.heads);
  const size_t kv_heads = static_cast<size_t>(shape.kv_heads), rows = q.size() / (heads * width);
  dq.assign(q.size(), 0), dk.assign(k.size(), 0), dv.assign(v.size(), 0);
  const auto dot = [&](const double* a, const double* b) {
    double sum = 0;
    for (size_t i = 0; i < width; ++i) sum += a[i] * b[i];
    return sum;
  };
  for (size_t row = 0; row < rows; ++row) {
    const size_t seen = static_cast<size_t>(past) + row + 1;
    const size_t first =
        shape.window > 0 && seen > static_cast<size_t>(shape.window) ? seen - static_cast<size_t>(shape.window) : 0;
    for (size_t head = 0; head < heads; ++head) {
      const size_t query = (row * heads + head) * width;
      const auto key = [&](size_t j) { return (j * kv_heads + head / (heads / kv_heads)) * width; };
      Doubles p(seen), slope(seen, shape.scale);
      double total = 0, mean = 0;
      for (size_t j = first; j < seen; ++j) {
        double s = dot(&q[query], &k[key(j)]) * shape.scale;
        if (shape.softcap > 0) {
          const double t = std::tanh(s / shape.softcap);
          s = t * shape.softcap;
          slope[j] *= 1 - t * t;
        }
        total += p[j] = std::exp(s);
      }
      for (size_t j = first; j < seen; ++j) mean += (p[j] /= total) * dot(&dout[query], &v[key(j)]);
      for (size_t j = first; j < seen; ++j) {
        const double ds = p[j] * (dot(&dout[query], &v[key(j)]) - mean) * slope[j];
        for (size_t i = 0; i < width; ++i) {
          dq[query + i] += ds * k[key(j) + i];
          dk[key(j) + i] += ds * q[query + i];
          dv[key(j) + i] += p[j] * dout[query + i];
        }
      }
    }
  }
}

std::vector<Doubles> Gradient(const Case& c, const std::vector<Doubles>& in, const Doubles& dout) {
  const int64_t columns = c.shape.heads * c.shape.head_dim, kv_columns = c.shape.kv_heads * c.shape.head_dim;
  std::vector<Doubles> result(kNames);
  result[kPrefixK].resize(in[kPrefixK].size()), result[kPrefixV].resize(in[kPrefixV].size());
  int64_t begin = 0;
  for (const auto& [has_prefix, rows] : c.segments) {
    const int64_t past = has_prefix ? c.prefix : 0;
    std::vector<Doubles> kv(2), dkv(2);
    for (const int i : {0, 1}) {
      if (has_prefix) kv[i] = in[kPrefixK + i];
      for (double x : Slice(in[kK + i], begin * kv_columns, rows * kv_columns)) kv[i].push_back(x);
    }
    Doubles dq;
    ChainGradient(c.shape, past, Slice(in[kQ], begin * columns, rows * columns), kv[0], kv[1],
                  Slice(dout, begin * columns, rows * columns), dq, dkv[0], dkv[1]);
    result[kQ].insert(result[kQ].end(), dq.begin(), dq.end());
    for (const int i : {0, 1}) {
      for (int64_t j = 0; j < past * kv_columns; ++j) result[kPrefixK + i][j] += dkv[i][j];
      result[kK + i].insert(result[kK + i].end(), dkv[i].begin() + past * kv_columns, dkv[i].end());
    }
    begin += rows;
  }
  return result;
}

std::vector<Floats> Inputs(const Case& c) {
  const int64_t columns = c.shape.heads * c.shape.head_dim, kv_columns = c.shape.kv_heads * c.shape.head_dim;
  std::vector<Floats> in;
  for (const int64_t size : {c.rows() * columns, c.rows() * kv_columns, c.rows() * kv_columns, c.prefix * kv_columns,
                             c.prefix * kv_columns}) {
    in.push_back(RandomFloats(size, in.size() + 1));
  }
  return in;
}

std::vector<Doubles> ToDoubles(const std::vector<Floats>& in) {
  std::vector<Doubles> result;
  for (const Floats& values : in) result.push_back(ToDouble(values));
  return result;
}

// Runs the op on `out` and `lse` of the definition, rounded; prefix gradients are added to `start`.
std::vector<Floats> Backward(const Case& c, std::vector<Floats> in, Floats dout, int threads, float start) {
  ThreadPool pool(threads);
  Workspace workspace;
  Doubles exact_lse;
  const Doubles exact_out = Define(c, ToDoubles(in), &exact_lse);
  Floats out(exact_out.begin(), exact_out.end()), lse(exact_lse.begin(), exact_lse.end());
  std::vector<AttentionSegment> segments;
  int64_t begin = 0;
  for (const auto& [has_prefix, rows] : c.segments) {
    segments.push_back({{}, has_prefix ? c.prefix : 0, begin, rows, {}});
    begin += rows;
  }
  std::vector<Floats> grad;
  for (const Floats& values : in) grad.emplace_back(values.size(), grad.size() < kPrefixK ? 7.0f : start);
  const auto view = [&](Floats& values) {
    return values.empty() ? Tensor() : Tensor(values.data(), {static_cast<int64_t>(values.size())});
  };
  AttentionBackward(pool, workspace, c.shape, segments, view(in[kQ]), view(in[kK]), view(in[kV]), view(in[kPrefixK]),
                    view(in[kPrefixV]), view(out), view(lse), view(dout), view(grad[kQ]), view(grad[kK]),
                    view(grad[kV]), view(grad[kPrefixK]), view(grad[kPrefixV]));
  return grad;
}

std::vector<Case> SmallCases() {
  return {{{2, 1, 4, 0.5f}, 0, {{false, 9}}},
          {{2, 2, 5, 0.5f, 4}, 3, {{true, 6}, {false, 3}, {true, 4}}},
          {{3, 1, 4, 0.5f, 0, 2.0f}, 2, {{true, 5}}}};
}

std::vector<Case> LargeCases() {
  return {{{9, 3, 64, 0.125f}, 0, {{false, 700}}},
          {{4, 2, 24, 0.2f, 100}, 530, {{true, 90}, {false, 650}, {true, 33}}},
          {{2, 1, 80, 0.1f, 0, 15.0f}, 20, {{true, 1100}, {true, 60}}},
          {{8, 1, 32, 0.2f}, 0, {{false, 1}, {false, 600}, {false, 47}}}};
}

TEST(AttentionBackward, FormulaMatchesComplexSteps) {
  for (const Case& c : SmallCases()) {
    const std::vector<Doubles> in = ToDoubles(Inputs(c));
    const Doubles dout = ToDouble(RandomFloats(static_cast<int64_t>(in[kQ].size()), 9));
    const std::vector<Doubles> gradient = Gradient(c, in, dout);
    for (int name = 0; name < kNames; ++name) {
      std::vector<reference::Values<reference::Complex>> point;
      for (const Doubles& values : in) point.emplace_back(values.begin(), values.end());
      const Doubles want = reference::ComplexStepGradient(in[name], [&](const auto& z) {
        point[name] = z;
        reference::Complex loss = 0;
        const auto out = Define(c, point);
        for (size_t i = 0; i < out.size(); ++i) loss += out[i] * dout[i];
        return loss;
      });
      for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(gradient[name][i], want[i], 1e-12);
    }
  }
}

TEST(AttentionBackward, MatchesTheFormula) {
  std::vector<Case> cases = SmallCases();
  for (const Case& c : LargeCases()) cases.push_back(c);
  for (const Case& c : cases) {
    SCOPED_TRACE(::testing::Message() << "rows " << c.rows() << " prefix " << c.prefix);
    const std::vector<Floats> in = Inputs(c);
    const Floats dout = RandomFloats(static_cast<int64_t>(in[kQ].size()), 9);
    const std::vector<Doubles> want = Gradient(c, ToDoubles(in), ToDouble(dout));
    ForEachIsa([&] {
      const std::vector<Floats> got = Backward(c, in, dout, 2, 0.0f);
      for (int name = 0; name < kNames; ++name) {
        if (!in[name].empty()) EXPECT_LT(RelativeError(got[name], want[name]), 4e-6) << "input " << name;
      }
    });
  }
}

TEST(AttentionBackward, ThreadsChangeNoBit) {
  for (const Case& c : LargeCases()) {
    const std::vector<Floats> in = Inputs(c);
    const Floats dout = RandomFloats(static_cast<int64_t>(in[kQ].size()), 9);
    const std::vector<Floats> one = Backward(c, in, dout, 1, 0.0f);
    EXPECT_EQ(one, Backward(c, in, dout, 2, 0.0f));
    EXPECT_EQ(one, Backward(c, in, dout, 3, 0.0f));
  }
}

// dq of a sequence has the same bits alone and beside others, which changes how many units a wave holds.
TEST(AttentionBackward, SequencesDoNotKnowEachOther) {
  const Case alone{{2, 1, 32, 0.2f}, 0, {{false, 1600}}};
  Case together = alone;
  for (int i = 0; i < 13; ++i) together.segments.push_back({false, 2});
  const std::vector<Floats> in = Inputs(together);
  const Floats dout = RandomFloats(static_cast<int64_t>(in[kQ].size()), 9);
  std::vector<Floats> first;
  for (const Floats& values : in) first.push_back(Slice(values, 0, static_cast<int64_t>(values.size()) * 1600 / 1626));
  const std::vector<Floats> one = Backward(alone, first, Slice(dout, 0, 1600 * 64), 2, 0.0f);
  const std::vector<Floats> all = Backward(together, in, dout, 2, 0.0f);
  for (const int name : {kQ, kK, kV}) {
    EXPECT_EQ(one[name], Slice(all[name], 0, static_cast<int64_t>(one[name].size()))) << "input " << name;
  }
}

TEST(AttentionBackward, PrefixGradientsAdd) {
  const Case c = SmallCases()[1];
  const std::vector<Floats> in = Inputs(c);
  const Floats dout = RandomFloats(static_cast<int64_t>(in[kQ].size()), 9);
  const std::vector<Floats> zero = Backward(c, in, dout, 1, 0.0f), added = Backward(c, in, dout, 1, 3.0f);
  EXPECT_EQ(zero[kQ], added[kQ]);
  for (const int name : {kPrefixK, kPrefixV}) {
    for (size_t i = 0; i < zero[name].size(); ++i) EXPECT_NEAR(added[name][i], zero[name][i] + 3, 1e-5);
  }
}

}  // namespace
}  // namespace cambium
