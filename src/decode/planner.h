#pragma once

#include <array>
#include <memory>
#include <vector>

#include "cambium/sliding_max.h"
#include "decode/drafter.h"

namespace cambium {

// T(n): what a pass over n rows costs on this machine with this model, learned from the passes themselves. Before a size
// was seen, its ratio to T(1) is a prior (docs/speculative-decoding.md).
class VerifyCurve {
 public:
  VerifyCurve();
  void Measure(int64_t rows, double ms);
  double Ms(int64_t rows) const;  // relative units until something was measured

 private:
  struct Point {
    int64_t rows;
    double prior;  // T(rows) / T(1)
    SlidingMean ms{16};
  };
  double Scale() const;  // ms of a pass of one row, from whatever was measured
  std::vector<Point> points_;
};

// Several drafters behind one: asks the cheap ones first and the neural ones where they have been paying off, merges their
// proposals, corrects their beliefs by how they fared in a sliding window (per drafter, depth and confidence), and keeps
// the tree that maximises expected tokens per second; nothing at all if plain decoding is best.
class Planner : public Drafter {
 public:
  explicit Planner(std::vector<std::unique_ptr<Drafter>> members);

  std::string name() const override { return "auto"; }
  Needs needs() const override;
  void Begin(std::span<const int32_t> prompt) override;
  void Observe(const Observation& observation) override;
  void Propose(int64_t budget, int64_t max_depth, Draft& draft) override;
  void Measure(int64_t rows, double pass_ms) override;
  void Sampling(const SamplingOptions& sampling, bool proposals) override;

  const std::vector<std::unique_ptr<Drafter>>& members() const { return members_; }
  const VerifyCurve& curve() const { return curve_; }

 private:
  static constexpr int kDepths = 6, kBins = 8, kWindow = 128;
  struct Calibration {
    SlidingMean outcome{kWindow}, predicted{kWindow};
  };
  // What the steps that a neural drafter took part in have brought. It is asked while its balance is not below zero: such
  // a step adds the time it saved, or subtracts what it lost, against what was promised without it, and every step without
  // it adds a hundredth of the step's time. So trying costs a hundredth at most, and one good try starts it again.
  struct Payoff {
    SlidingMean tokens{16}, ms{16};
    SlidingMean agreement{64};  // share of its levels at which the target drew one of its tokens
    int64_t calls = 0;
    bool first = true;  // of a request: it may have the whole prompt to run, which says nothing about the next steps
    double balance = 0;  // ms
    double without = 0;  // tokens per ms promised for this step without it
    bool Due(double plain) const;  // plain: tokens per ms of plain decoding
  };
  static size_t Slot(int depth, float probability);
  float Calibrated(size_t member, int depth, float probability) const;
  void Ask(size_t member, int64_t budget, int64_t max_depth);
  bool AnotherLevelPays(size_t member, const Draft& draft, double spent_ms) const;
  struct Plan {
    std::vector<int32_t> nodes;  // of the pool, parents first
    double tokens_per_ms = 0;
  };
  Plan Choose(int64_t budget) const;
  void ScorePool(const Observation& observation);

  std::vector<std::unique_ptr<Drafter>> members_;
  std::vector<std::array<Calibration, kDepths * kBins>> calibrations_;  // per member
  std::vector<Payoff> payoffs_;
  VerifyCurve curve_;
  Draft pool_;                      // everything proposed in this step, with corrected probabilities
  std::vector<float> raw_;          // the drafters' own beliefs, per pool node
  Draft drawn_;                     // a draft that was drawn: choosing among its nodes would bias the rejection rule
  std::vector<size_t> asked_;       // neural members of this step
  int64_t observed_ = 0;            // tokens that this step brought
  int64_t passes_ = 0;              // of this request
  double draft_ms_ = 0;             // spent proposing in this step
};

}  // namespace cambium
