#include "train/numerics.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <mutex>

#include "io/atomic_file.h"

namespace cambium {
namespace {

constexpr const char* kKindNames[] = {"weights", "activations", "gradients", "parameter gradients"};
constexpr float kHalfToZero = 0x1p-25f;      // magnitudes up to here round to zero in fp16 (the tie goes to even)
constexpr float kHalfSmallest = 0x1p-14f;    // the smallest normal one
constexpr float kHalfToInfinity = 65520.0f;  // from here on they round to infinity

// "layers.7.q_proj.lora_A" -> 7; -1 for others.
int64_t LayerOf(const std::string& name) {
  constexpr std::string_view kPrefix = "layers.";
  if (!name.starts_with(kPrefix)) return -1;
  int64_t layer = -1;
  std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  return layer;
}

void Commit(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.Write(text);
  file.Commit();
}

}  // namespace

void ExponentHistogram::Add(ThreadPool& pool, Tensor x) {
  constexpr int64_t kTask = 1 << 16;
  std::mutex mutex;
  pool.Run((x.size() + kTask - 1) / kTask, [&](int64_t task, int) {
    ExponentHistogram part;
    const float *const begin = x.f32() + task * kTask, *const end = x.f32() + std::min(x.size(), (task + 1) * kTask);
    for (const float* at = begin; at != end; ++at) {
      const float value = std::fabs(*at);
      if (value == 0) {
        ++part.zeros_;
        continue;
      }
      if (!(value < kHalfToInfinity)) ++part.overflow_;
      if (!std::isfinite(value)) continue;
      part.amax_ = std::max(part.amax_, value);
      if (value <= kHalfToZero) ++part.underflow_;
      if (value > kHalfToZero && value < kHalfSmallest) ++part.subnormal_;
      const uint32_t bits = std::bit_cast<uint32_t>(value);
      const int exponent = bits >> 23 != 0 ? static_cast<int>(bits >> 23) - 127 : std::bit_width(bits) - 150;
      ++part.bins_[static_cast<size_t>(exponent - kLowest)];
    }
    part.count_ = end - begin;
    const std::lock_guard lock(mutex);
    Add(part);
  });
}

void ExponentHistogram::Add(const ExponentHistogram& other) {
  for (size_t i = 0; i < bins_.size(); ++i) bins_[i] += other.bins_[i];
  count_ += other.count_;
  zeros_ += other.zeros_;
  underflow_ += other.underflow_;
  subnormal_ += other.subnormal_;
  overflow_ += other.overflow_;
  amax_ = std::max(amax_, other.amax_);
}

int ExponentHistogram::Quantile(double share) const {
  int64_t all = 0, sum = 0;
  for (const int64_t bin : bins_) all += bin;
  for (int exponent = kLowest; exponent <= kHighest; ++exponent) {
    sum += at(exponent);
    if (sum > 0 && static_cast<double>(sum) >= share * static_cast<double>(all)) return exponent;
  }
  return kHighest;
}

NumericsReport::NumericsReport(Trainer& trainer, Transformer& model)
    : trainer_(trainer),
      model_(model),
      layers_(model.config().layers),
      series_(static_cast<size_t>((layers_ + 1) * kKinds)) {
  trainer.observe = [this](Pass& pass, bool after) { Observe(pass, after); };
}

void NumericsReport::Observe(Pass& pass, bool after) {
  const auto add = [&](int64_t layer, Kind kind, Tensor x) {
    ExponentHistogram now;
    now.Add(model_.pool(), x);
    Series& series = At(layer, kind);
    series.histogram.Add(now);
    series.step_amax = std::max(series.step_amax, now.amax());
  };
  if (!after) {
    for (int64_t layer = 0; layer < layers_; ++layer) pass.capture.push_back(layer);
    pass.training.observe_gradient = [add](int64_t layer, Tensor dx) { add(layer, kGradients, dx); };
    return;
  }
  for (int64_t layer = 0; layer < layers_; ++layer) {
    add(layer, kActivations, pass.result.captured[static_cast<size_t>(layer)]);
  }
}

void NumericsReport::Step() {
  for (const Parameter* param : trainer_.optimizer().params()) {
    const int64_t layer = LayerOf(param->name);
    Series& series = At(layer < 0 ? layers_ : std::min(layer, layers_), kParameterGradients);
    ExponentHistogram now;
    now.Add(model_.pool(), param->grad);
    series.histogram.Add(now);
    series.step_amax = std::max(series.step_amax, now.amax());
  }
  for (Series& series : series_) {
    series.window_amax = series.history.Push(series.step_amax);
    series.amax.push_back(series.step_amax);
    series.window.push_back(series.window_amax);
    series.step_amax = 0;
  }
}

void NumericsReport::AddWeights() {
  const auto add = [&](int64_t layer, const PackedMatrix& w) {
    if (!w) return;
    OwnedTensor values({w.out(), w.in()});
    w.Unpack(model_.pool(), values.view);
    At(layer, kWeights).histogram.Add(model_.pool(), values.view);
  };
  const ModelWeights& weights = model_.weights();
  for (const Site site : weights.sites()) add(site.layer, weights.At(site).w);
  add(layers_, weights.embedding);
  add(layers_, weights.separate_head);
}

std::vector<std::string> NumericsReport::Write(const std::string& directory) {
  AddWeights();
  std::string table = fmt::format(
      "fp16: to zero up to 2^-25, subnormal below 2^-14, to infinity from 65520. loss scale {:g}\n{:>6} {:<20}"
      "{:>11} {:>11} {:>7} {:>8} {:>9} {:>8}   exponents 1 % 50 % 99 %\n",
      trainer_.scaler().scale(), "layer", "values", "amax", "in window", "zero", "to zero", "subnormal", "to inf");
  nlohmann::ordered_json json = {{"loss_scale", trainer_.scaler().scale()}, {"window", kWindow}};
  const auto where = [&](int64_t layer) {
    return layer < layers_ ? fmt::format("layer {}", layer) : "outside the layers";
  };
  std::vector<std::string> summary;
  for (int kind = 0; kind < kKinds; ++kind) {
    double worst_under = 0, worst_over = 0;
    int64_t under_layer = 0, over_layer = 0;
    for (int64_t layer = 0; layer <= layers_; ++layer) {
      const Series& series = At(layer, static_cast<Kind>(kind));
      const ExponentHistogram& h = series.histogram;
      if (h.count() == 0) continue;
      const std::string name = layer < layers_ ? std::to_string(layer) : "other";
      const double zero = static_cast<double>(h.zeros()) / static_cast<double>(h.count());
      table += fmt::format(
          "{:>6} {:<20}{:>11.4g} {:>11.4g} {:>6.2f}% {:>7.3f}% {:>8.3f}% {:>7.3f}%   {:>13} {:>4} {:>4}\n", name,
          kKindNames[kind], h.amax(), kind == kWeights ? h.amax() : series.window_amax, 100 * zero, 100 * h.Underflow(),
          100 * h.Subnormal(), 100 * h.Overflow(), h.Quantile(0.01), h.Quantile(0.5), h.Quantile(0.99));
      nlohmann::ordered_json exponents = nlohmann::ordered_json::object();
      for (int e = ExponentHistogram::kLowest; e <= ExponentHistogram::kHighest; ++e) {
        if (h.at(e) > 0) exponents[std::to_string(e)] = h.at(e);
      }
      nlohmann::ordered_json entry = {{"layer", name},
                                      {"values", kKindNames[kind]},
                                      {"count", h.count()},
                                      {"zeros", h.zeros()},
                                      {"underflow", h.Underflow()},
                                      {"subnormal", h.Subnormal()},
                                      {"overflow", h.Overflow()},
                                      {"amax", h.amax()},
                                      {"exponents", exponents}};
      if (kind != kWeights) entry["amax_by_step"] = series.amax, entry["amax_in_window"] = series.window;
      json["series"].push_back(std::move(entry));
      if (h.Underflow() > worst_under) worst_under = h.Underflow(), under_layer = layer;
      if (h.Overflow() > worst_over) worst_over = h.Overflow(), over_layer = layer;
    }
    summary.push_back(
        fmt::format("{:<20} in fp16 to zero: at most {:.3f} % ({}); to infinity: at most {:.3f} % ({})",
                    kKindNames[kind], 100 * worst_under, where(under_layer), 100 * worst_over, where(over_layer)));
  }
  Commit(directory + "/numerics.txt", table);
  Commit(directory + "/numerics.json", json.dump() + "\n");
  return summary;
}

}  // namespace cambium
