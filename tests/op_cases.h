#pragma once

// The table of ops: how to run each, its definition, and what its inputs look like. Correctness, gradients, thread
// counts and row independence are tested from it.

#include <functional>
#include <string>
#include <vector>

#include "ops/ops.h"
#include "reference.h"

namespace cambium::testing {

using Floats = std::vector<float>;

struct OpInput {
  int64_t columns;
  bool per_row = true;  // else one vector for all rows: a parameter
};

struct OpCase {
  std::string name;
  std::vector<OpInput> inputs;
  double tolerance;  // of the forward result, relative to its largest value
  std::function<std::vector<double>(const std::vector<reference::Values<double>>&)> define;
  std::function<std::vector<reference::Complex>(const std::vector<reference::Values<reference::Complex>>&)>
      define_complex;
  std::function<Floats(ThreadPool&, int64_t rows, std::vector<Floats>)> forward;
  // The gradient of sum(dy * y) by every input; parameters' gradients are added to `start`.
  std::function<std::vector<Floats>(ThreadPool&, int64_t rows, Floats dy, std::vector<Floats>, float start)> backward;
};

template <class Define>
OpCase MakeCase(std::string name, std::vector<OpInput> inputs, double tolerance, Define define,
                decltype(OpCase::forward) forward, decltype(OpCase::backward) backward) {
  return {std::move(name), std::move(inputs), tolerance, define, define, std::move(forward), std::move(backward)};
}

inline Tensor View(Floats& values, int64_t rows) {
  return Tensor(values.data(), {rows, static_cast<int64_t>(values.size()) / rows});
}

// Positions that repeat, jump and reach far.
inline std::vector<int32_t> Positions(int64_t rows) {
  std::vector<int32_t> positions;
  for (int64_t i = 0; i < rows; ++i) positions.push_back(static_cast<int32_t>(i % 5 == 4 ? i * 1013 + 100000 : i / 2));
  return positions;
}

inline std::vector<OpCase> OpCases(int64_t columns) {
  using In = std::vector<Floats>;
  std::vector<OpCase> cases;
  cases.push_back(MakeCase(
      "RmsNorm", {{columns}, {columns, false}}, 1e-6,
      [](const auto& in) { return reference::RmsNorm(in[0], in[1], 1e-5); },
      [](ThreadPool& pool, int64_t rows, In in) {
        Floats y(in[0].size());
        RmsNorm(pool, View(in[0], rows), View(in[1], 1), 1e-5f, View(y, rows));
        return y;
      },
      [](ThreadPool& pool, int64_t rows, Floats dy, In in, float start) {
        Floats y(in[0].size()), inv_rms(static_cast<size_t>(rows)), dx(y.size()), dgain(in[1].size(), start);
        RmsNorm(pool, View(in[0], rows), View(in[1], 1), 1e-5f, View(y, rows), View(inv_rms, rows));
        RmsNormBackward(pool, View(dy, rows), View(in[0], rows), View(in[1], 1), View(inv_rms, rows), View(dx, rows),
                        View(dgain, 1));
        return In{dx, dgain};
      }));
  cases.push_back(MakeCase(
      "LayerNorm", {{columns}, {columns, false}, {columns, false}}, 1e-6,
      [](const auto& in) { return reference::LayerNorm(in[0], in[1], in[2], 1e-5); },
      [](ThreadPool& pool, int64_t rows, In in) {
        Floats y(in[0].size());
        LayerNorm(pool, View(in[0], rows), View(in[1], 1), View(in[2], 1), 1e-5f, View(y, rows));
        return y;
      },
      [](ThreadPool& pool, int64_t rows, Floats dy, In in, float start) {
        Floats y(in[0].size()), mean(static_cast<size_t>(rows)), inv_std(mean), dx(y.size());
        Floats dgain(in[1].size(), start), dbias(in[1].size(), start);
        LayerNorm(pool, View(in[0], rows), View(in[1], 1), View(in[2], 1), 1e-5f, View(y, rows), View(mean, rows),
                  View(inv_std, rows));
        LayerNormBackward(pool, View(dy, rows), View(in[0], rows), View(in[1], 1), View(mean, rows),
                          View(inv_std, rows), View(dx, rows), View(dgain, 1), View(dbias, 1));
        return In{dx, dgain, dbias};
      }));
  cases.push_back(MakeCase(
      "AddBias", {{columns}, {columns, false}}, 1e-7,
      [](const auto& in) {
        auto y = in[0];
        for (size_t i = 0; i < y.size(); ++i) y[i] += in[1][i % in[1].size()];
        return y;
      },
      [](ThreadPool& pool, int64_t rows, In in) {
        AddBias(pool, View(in[1], 1), View(in[0], rows));
        return in[0];
      },
      [](ThreadPool& pool, int64_t rows, Floats dy, In in, float start) {
        Floats dbias(in[1].size(), start);
        BiasBackward(pool, View(dy, rows), View(dbias, 1));
        return In{dy, dbias};
      }));
  // Two heads of an even width.
  const int64_t half = std::max<int64_t>(1, columns / 4);
  std::vector<float> inv_freq;
  for (int64_t i = 0; i < half; ++i) {
    inv_freq.push_back(static_cast<float>(std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half))));
  }
  cases.push_back(MakeCase(
      "Rope", {{4 * half}}, 1e-6,
      [inv_freq, half](const auto& in) {
        const int64_t rows = static_cast<int64_t>(in[0].size()) / (4 * half);
        return reference::Rope(in[0], Positions(rows), inv_freq, 1.25);
      },
      [inv_freq](ThreadPool& pool, int64_t rows, In in) {
        Floats frequencies = inv_freq;
        Rope(pool, View(in[0], rows), Positions(rows), View(frequencies, 1), 1.25f);
        return in[0];
      },
      [inv_freq](ThreadPool& pool, int64_t rows, Floats dy, In, float) {
        Floats frequencies = inv_freq;
        RopeBackward(pool, View(dy, rows), Positions(rows), View(frequencies, 1), 1.25f);
        return In{dy};
      }));
  for (const auto& [act, name] : {std::pair{Activation::kSilu, "Silu"},
                                  {Activation::kGeluTanh, "GeluTanh"},
                                  {Activation::kGelu, "Gelu"},
                                  {Activation::kRelu, "Relu"},
                                  {Activation::kTanh, "Tanh"}}) {
    const Activation a = act;
    cases.push_back(MakeCase(
        std::string("Gated") + name, {{columns}, {columns}}, 1e-6,
        [a](const auto& in) { return reference::Gated(a, in[0], in[1]); },
        [a](ThreadPool& pool, int64_t rows, In in) {
          GatedActivation(pool, a, View(in[0], rows), View(in[1], rows), View(in[0], rows));  // y aliases gate
          return in[0];
        },
        [a](ThreadPool& pool, int64_t rows, Floats dy, In in, float) {
          Floats dgate(dy.size()), dup(dy.size());
          GatedActivationBackward(pool, a, View(dy, rows), View(in[0], rows), View(in[1], rows), View(dgate, rows),
                                  View(dup, rows));
          return In{dgate, dup};
        }));
    cases.push_back(MakeCase(
        name, {{columns}}, 1e-6,
        [a](const auto& in) {
          auto y = in[0];
          for (auto& x : y) x = reference::Activate(a, x);
          return y;
        },
        [a](ThreadPool& pool, int64_t rows, In in) {
          Activate(pool, a, View(in[0], rows), View(in[0], rows));
          return in[0];
        },
        [a](ThreadPool& pool, int64_t rows, Floats dy, In in, float) {
          Floats dx(dy.size());
          ActivateBackward(pool, a, View(dy, rows), View(in[0], rows), View(dx, rows));
          return In{dx};
        }));
  }
  cases.push_back(MakeCase(
      "AddScaled", {{columns}, {columns}}, 1e-6,
      [](const auto& in) {
        auto y = in[1];
        for (size_t i = 0; i < y.size(); ++i) y[i] += 0.375 * in[0][i];
        return y;
      },
      [](ThreadPool& pool, int64_t rows, In in) {
        AddScaled(pool, 0.375f, View(in[0], rows), View(in[1], rows));
        return in[1];
      },
      [](ThreadPool& pool, int64_t rows, Floats dy, In, float) {
        Floats dx = dy;
        Scale(pool, 0.375f, View(dx, rows));
        return In{dx, dy};
      }));
  // Every third row is skipped; weights differ by row. The op returns the gradient of sum(weight * loss) in place, so
  // dy is the row weights.
  const auto targets = [columns](int64_t rows) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < rows; ++i) ids.push_back(i % 3 == 2 ? -1 : static_cast<int32_t>(i * 17 % columns));
    return ids;
  };
  cases.push_back(MakeCase(
      "CrossEntropy", {{columns}}, 1e-6,
      [targets, columns](const auto& in) {
        return reference::CrossEntropy(in[0], targets(static_cast<int64_t>(in[0].size()) / columns));
      },
      [targets](ThreadPool& pool, int64_t rows, In in) {
        Floats loss(static_cast<size_t>(rows)), weights(loss.size(), 1.0f);
        CrossEntropy(pool, View(in[0], rows), targets(rows), weights, loss);
        return loss;
      },
      [targets](ThreadPool& pool, int64_t rows, Floats dy, In in, float) {
        Floats loss(dy.size());
        CrossEntropy(pool, View(in[0], rows), targets(rows), dy, loss);
        return In{in[0]};
      }));
  return cases;
}

}  // namespace cambium::testing
