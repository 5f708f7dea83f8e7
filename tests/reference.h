#pragma once

// Each op's definition, as plain as it can be written: scalar templates for double, and for complex<double>, whose
// imaginary part of a tiny step divided by the step is the derivative without cancellation (Squire & Trapp 1998).

#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

#include "ops/ops.h"

namespace cambium::reference {

using Complex = std::complex<double>;
template <class S>
using Values = std::vector<S>;

inline double Real(double x) { return x; }
inline double Real(Complex x) { return x.real(); }
inline double Erf(double x) { return std::erf(x); }
// First order in the imaginary part, which is all that a complex step needs.
inline Complex Erf(Complex x) {
  return {std::erf(x.real()), x.imag() * 2 / std::sqrt(M_PI) * std::exp(-x.real() * x.real())};
}

template <class S>
Values<S> RmsNorm(const Values<S>& x, const Values<S>& gain, double eps) {
  const size_t columns = gain.size();
  Values<S> y(x.size());
  for (size_t row = 0; row < x.size(); row += columns) {
    S squares = 0;
    for (size_t i = 0; i < columns; ++i) squares += x[row + i] * x[row + i];
    const S inverse = 1.0 / std::sqrt(squares / static_cast<double>(columns) + eps);
    for (size_t i = 0; i < columns; ++i) y[row + i] = x[row + i] * inverse * gain[i];
  }
  return y;
}

template <class S>
Values<S> LayerNorm(const Values<S>& x, const Values<S>& gain, const Values<S>& bias, double eps) {
  const size_t columns = gain.size();
  Values<S> y(x.size());
  for (size_t row = 0; row < x.size(); row += columns) {
    S mean = 0, variance = 0;
    for (size_t i = 0; i < columns; ++i) mean += x[row + i] / static_cast<double>(columns);
    for (size_t i = 0; i < columns; ++i) {
      variance += (x[row + i] - mean) * (x[row + i] - mean) / static_cast<double>(columns);
    }
    for (size_t i = 0; i < columns; ++i)
      y[row + i] = (x[row + i] - mean) / std::sqrt(variance + eps) * gain[i] + bias[i];
  }
  return y;
}

// x [rows][heads][2 * half]; the angle is rounded to float first, as the op and PyTorch do.
template <class S>
Values<S> Rope(Values<S> x, const std::vector<int32_t>& positions, const std::vector<float>& inv_freq, double scale) {
  const size_t half = inv_freq.size(), per_row = x.size() / positions.size();
  for (size_t row = 0; row < positions.size(); ++row) {
    for (size_t head = row * per_row; head < (row + 1) * per_row; head += 2 * half) {
      for (size_t i = 0; i < half; ++i) {
        const double angle = static_cast<float>(positions[row]) * inv_freq[i];
        const S a = x[head + i], b = x[head + half + i];
        x[head + i] = (a * std::cos(angle) - b * std::sin(angle)) * scale;
        x[head + half + i] = (b * std::cos(angle) + a * std::sin(angle)) * scale;
      }
    }
  }
  return x;
}

template <class S>
S Activate(Activation act, S x) {
  switch (act) {
    case Activation::kSilu:
      return x / (1.0 + std::exp(-x));
    case Activation::kGeluTanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kGelu:
      return 0.5 * x * (1.0 + Erf(x / std::sqrt(2.0)));
    case Activation::kRelu:
      return Real(x) > 0 ? x : S(0);
    case Activation::kTanh:
      return std::tanh(x);
  }
  return x;
}

template <class S>
Values<S> Gated(Activation act, const Values<S>& gate, const Values<S>& up) {
  Values<S> y(gate.size());
  for (size_t i = 0; i < y.size(); ++i) y[i] = Activate(act, gate[i]) * up[i];
  return y;
}

// -log softmax(logits)[target] of each row; 0 where the target is negative.
template <class S>
Values<S> CrossEntropy(const Values<S>& logits, const std::vector<int32_t>& targets) {
  const size_t vocab = logits.size() / targets.size();
  Values<S> loss(targets.size());
  for (size_t row = 0; row < targets.size(); ++row) {
    if (targets[row] < 0) continue;
    double top = -1e300;
    for (size_t i = 0; i < vocab; ++i) top = std::max(top, Real(logits[row * vocab + i]));
    S total = 0;
    for (size_t i = 0; i < vocab; ++i) total += std::exp(logits[row * vocab + i] - top);
    loss[row] = std::log(total) + top - logits[row * vocab + static_cast<size_t>(targets[row])];
  }
  return loss;
}

// One sequence: k, v [past + rows][kv_heads][head_dim] in slot order; q [rows][heads][head_dim]; parents as in
// AttentionSegment (empty: a chain). Returns out [rows][heads][head_dim]; lse [rows][heads] if wanted.
template <class S>
Values<S> Attention(const AttentionShape& shape, int64_t past, const std::vector<int32_t>& parents, const Values<S>& q,
                    const Values<S>& k, const Values<S>& v, Values<S>* lse = nullptr) {
  const int64_t width = shape.head_dim, rows = static_cast<int64_t>(q.size()) / (shape.heads * width);
  const auto at = [](auto& values, int64_t i) -> auto& { return values[static_cast<size_t>(i)]; };
  Values<S> out(q.size());
  if (lse != nullptr) lse->assign(static_cast<size_t>(rows * shape.heads), S(0));
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<int64_t> slots;  // by logical position
    for (int64_t node = row; node >= 0; node = parents.empty() ? node - 1 : at(parents, node)) {
      slots.insert(slots.begin(), past + node);
    }
    for (int64_t slot = past - 1; slot >= 0; --slot) slots.insert(slots.begin(), slot);
    if (shape.window > 0 && static_cast<int64_t>(slots.size()) > shape.window) {
      slots.erase(slots.begin(), slots.end() - shape.window);
    }
    for (int64_t head = 0; head < shape.heads; ++head) {
      const int64_t kv_head = head / (shape.heads / shape.kv_heads), query = (row * shape.heads + head) * width;
      Values<S> scores;
      double top = -1e300;
      for (int64_t slot : slots) {
        S score = 0;
        for (int64_t i = 0; i < width; ++i) {
          score += at(q, query + i) * at(k, (slot * shape.kv_heads + kv_head) * width + i);
        }
        score *= shape.scale;
        if (shape.softcap > 0) score = std::tanh(score / double{shape.softcap}) * double{shape.softcap};
        top = std::max(top, Real(score));
        scores.push_back(score);
      }
      S total = 0;
      for (S& score : scores) total += score = std::exp(score - top);
      for (size_t j = 0; j < slots.size(); ++j) {
        for (int64_t i = 0; i < width; ++i) {
          at(out, query + i) += scores[j] / total * at(v, (slots[j] * shape.kv_heads + kv_head) * width + i);
        }
      }
      if (lse != nullptr) at(*lse, row * shape.heads + head) = std::log(total) + top;
    }
  }
  return out;
}

// One AdamW step on one parameter; m and v are updated.
inline double AdamW(const cambium::AdamW& hyper, int64_t step, double grad, double param, double& m, double& v) {
  m = hyper.beta1 * m + (1.0 - hyper.beta1) * grad;
  v = hyper.beta2 * v + (1.0 - hyper.beta2) * grad * grad;
  const double m_hat = m / (1.0 - std::pow(double{hyper.beta1}, static_cast<double>(step)));
  const double v_hat = v / (1.0 - std::pow(double{hyper.beta2}, static_cast<double>(step)));
  return param - hyper.lr * (m_hat / (std::sqrt(v_hat) + hyper.eps) + hyper.weight_decay * param);
}

// d loss / d x[i] for every i, where loss(x) is a complex scalar.
template <class Loss>
std::vector<double> ComplexStepGradient(const std::vector<double>& x, const Loss& loss) {
  Values<Complex> z(x.begin(), x.end());
  std::vector<double> gradient(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    z[i] = {x[i], 1e-40};
    gradient[i] = loss(z).imag() / 1e-40;
    z[i] = x[i];
  }
  return gradient;
}

}  // namespace cambium::reference
