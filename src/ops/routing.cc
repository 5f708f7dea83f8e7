#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/ops.h"
#include "ops/ranges.h"

namespace cambium {
namespace {

// What a softmax over `logits` divides by; `greatest` is the maximum.
double SumOfExps(const float* logits, int64_t count, float greatest) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(double{logits[i]} - double{greatest});
  return sum;
}

float Sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

void Route(ThreadPool& pool, const RouteRule& rule, Tensor logits, std::span<int32_t> chosen, Tensor weights) {
  const int64_t experts = logits.columns(), used = rule.used;
  Check(used >= 1 && used <= experts && weights.columns() == used && weights.rows() == logits.rows() &&
            static_cast<int64_t>(chosen.size()) == weights.size(),
        "each row chooses among its experts");
  ForRows(pool, logits.rows(), 4 * experts, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* const from = logits.row(row);
      int32_t* const best = chosen.data() + row * used;
      float* const weight = weights.row(row);
      for (int64_t e = 0; e < experts; ++e) {
        int64_t place = std::min(e, used);
        while (place > 0 && from[e] > from[best[place - 1]]) {
          if (place < used) best[place] = best[place - 1];
          --place;
        }
        if (place < used) best[place] = static_cast<int32_t>(e);
      }
      for (int64_t k = 0; k < used; ++k) weight[k] = from[best[k]];
      const float greatest = weight[0];
      const double sum = rule.normalise ? SumOfExps(weight, used, greatest) : SumOfExps(from, experts, greatest);
      for (int64_t k = 0; k < used; ++k) {
        weight[k] = static_cast<float>(std::exp(double{weight[k]} - double{greatest}) / sum);
      }
    }
  });
}

// Of a softmax p over a set, chosen ones among them: dlogit_i = p_i (dp_i - sum over the set of p dp).
void RouteBackward(ThreadPool& pool, const RouteRule& rule, Tensor logits, std::span<const int32_t> chosen,
                   Tensor dweights, Tensor dlogits) {
  const int64_t experts = logits.columns(), used = rule.used;
  ForRows(pool, logits.rows(), experts, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float *const from = logits.row(row), *const dweight = dweights.row(row);
      const int32_t* const best = chosen.data() + row * used;
      float* const to = dlogits.row(row);
      const float greatest = from[best[0]];
      double sum = 0, dot = 0;
      for (int64_t k = 0; k < used; ++k) sum += std::exp(double{from[best[k]]} - double{greatest});
      if (!rule.normalise) sum = SumOfExps(from, experts, greatest);
      const auto share = [&](int64_t e) { return std::exp(double{from[e]} - double{greatest}) / sum; };
      for (int64_t k = 0; k < used; ++k) dot += share(best[k]) * double{dweight[k]};
      for (int64_t e = 0; e < experts; ++e) to[e] = rule.normalise ? 0.0f : static_cast<float>(-share(e) * dot);
      for (int64_t k = 0; k < used; ++k) {
        to[best[k]] = static_cast<float>(share(best[k]) * (double{dweight[k]} - dot));
      }
    }
  });
}

void GatherRows(ThreadPool& pool, Tensor x, std::span<const int32_t> rows, Tensor y) {
  const int64_t columns = x.columns();
  ForRows(pool, y.rows(), columns, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(y.row(i), x.row(rows[static_cast<size_t>(i)]), static_cast<size_t>(columns) * sizeof(float));
    }
  });
}

void AddGathered(ThreadPool& pool, Tensor y, std::span<const int32_t> places, Tensor weights, Tensor h) {
  const int64_t columns = h.columns(), used = static_cast<int64_t>(places.size()) / h.rows();
  ForRows(pool, h.rows(), used * columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* const to = h.row(row);
      for (int64_t k = 0; k < used; ++k) {
        const float* const from = y.row(places[static_cast<size_t>(row * used + k)]);
        const float weight = weights ? weights.row(row)[k] : 1.0f;
        for (int64_t i = 0; i < columns; ++i) to[i] += weight * from[i];
      }
    }
  });
}

void AddGatheredBackward(ThreadPool& pool, Tensor dh, Tensor y, std::span<const int32_t> places, Tensor weights,
                         Tensor dy, Tensor dweights) {
  const int64_t columns = dh.columns(), used = weights.columns();
  ForRows(pool, dh.rows(), used * columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* const gradient = dh.row(row);
      for (int64_t k = 0; k < used; ++k) {
        const int32_t place = places[static_cast<size_t>(row * used + k)];
        const float* const from = y.row(place);
        float* const to = dy.row(place);
        const float weight = weights.row(row)[k];
        double dot = 0;
        for (int64_t i = 0; i < columns; ++i) {
          dot += double{gradient[i]} * double{from[i]};
          to[i] = weight * gradient[i];
        }
        dweights.row(row)[k] = static_cast<float>(dot);
      }
    }
  });
}

void GateRows(ThreadPool& pool, Tensor gate, Tensor y) {
  const int64_t columns = y.columns();
  ForRows(pool, y.rows(), columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float share = Sigmoid(gate.f32()[row]);
      for (int64_t i = 0; i < columns; ++i) y.row(row)[i] *= share;
    }
  });
}

void GateRowsBackward(ThreadPool& pool, Tensor gate, Tensor y, Tensor dy, Tensor dgate) {
  const int64_t columns = y.columns();
  ForRows(pool, y.rows(), columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float share = Sigmoid(gate.f32()[row]);
      double dot = 0;
      for (int64_t i = 0; i < columns; ++i) {
        dot += double{dy.row(row)[i]} * double{y.row(row)[i]};
        dy.row(row)[i] *= share;
      }
      dgate.f32()[row] = static_cast<float>(dot) * share * (1 - share);
    }
  });
}

}  // namespace cambium
