#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cambium/sliding_max.h"
#include "decode/drafter.h"

namespace cambium {

// T(n): what a pass over n rows costs on this machine with this model, learned from the passes themselves. A pass reads
// the weights once and computes n rows, and the two overlap: T(n)^2 = weights^2 + (n row)^2 within a tenth of what CPUs
// with AVX-512 and with AVX2 alone measure. What was measured fits the two; a size that was seen often speaks for
// itself.
class VerifyCurve {
 public:
  VerifyCurve();
  // Tells what a pass over so many rows reads of the weights, in what one over a row does: more rows wake more of a
  // mixture's experts. Until then it is as much, whatever the rows.
  void SetReads(const std::function<double(int64_t rows)>& reads);
  void Measure(int64_t rows, double ms);
  // What a row costs where there are many, as a prompt's pass tells before anything was verified.
  void MeasureRow(double ms);
  double Ms(int64_t rows) const;  // relative units until something was measured
  bool measured() const;
  struct Point {
    int64_t rows;
    double ms;
  };
  std::vector<Point> Known() const;  // what was measured often enough to tell others

 private:
  struct Size {
    int64_t rows;
    int64_t seen = 0;
    SlidingMean ms{16};
    double curve = 0;  // what Ms says of it
    double reads = 1;  // of the weights
  };
  double Guess(size_t size) const;  // before it was seen
  void Learn();                     // what was measured makes the curve: Ms is asked for every node of a draft
  void Fit();
  std::vector<Size> sizes_;
  double row_ = 0;                        // from prompts; 0: not known
  double weights_squared_, row_squared_;  // of the fit
};

// The drafters that a kind of request asked for, and what they have been worth: beliefs corrected by how they fared in
// a sliding window (per drafter, depth and confidence), and for neural ones what their steps brought. Serves any number
// of sequences.
class DrafterSet {
 public:
  // planned: false takes what the members propose as it is, whatever it costs.
  explicit DrafterSet(std::vector<std::unique_ptr<Drafter>> members, bool planned = true);

  const std::vector<std::unique_ptr<Drafter>>& members() const { return members_; }
  Drafter::Needs needs() const { return needs_; }
  bool keeps_kv() const;
  bool planned() const { return planned_; }
  uint64_t key() const { return key_; }  // of no other set

  // The members' sessions of one sequence, and what they proposed in the step under way.
  struct Drafting {
    std::vector<std::unique_ptr<DraftSession>> sessions;
    const DraftText* text = nullptr;  // that they look at
    Draft pool;                       // everything proposed, with corrected probabilities
    std::vector<float> raw;           // the drafters' own beliefs, per pool node
    Draft drawn;                      // a draft that was drawn: choosing among its nodes would bias the rejection rule
    int64_t kept() const;             // the least of the sessions'
  };
  Drafting Open(const DraftText& text);
  Drafting Open(const DraftText&& text) = delete;  // the drafting looks at it
  // Shows a pass to every session, after comparing what was proposed, verified or not, with what the target drew.
  void Observe(Drafting& drafting, const Observation& observation);

 private:
  friend class Planner;
  static constexpr int kDepths = 6, kBins = 8, kWindow = 128;
  struct Calibration {
    SlidingMean outcome{kWindow}, predicted{kWindow};
  };
  // What the steps that a neural drafter took part in have brought. It is asked while its balance is not below zero:
  // such a step adds the time it saved, or subtracts what it lost, against what was promised without it, and every step
  // without it adds a hundredth of the step's time. So trying costs a hundredth at most, and one good try starts it
  // again.
  struct Payoff {
    SlidingMean tokens{16}, ms{16};
    SlidingMean agreement{64};  // share of its levels at which the target drew one of its tokens
    int64_t calls = 0;
    bool first =
        true;  // since a sequence came: it may have a whole prompt to run, which says nothing about the next steps
    double balance = 0;            // ms
    double without = 0;            // tokens per ms promised for this step without it
    bool asked = false;            // in this step
    bool Due(double plain) const;  // plain: tokens per ms of plain decoding
  };
  static size_t Slot(int depth, float probability);
  float Calibrated(size_t member, int depth, float probability) const;

  std::vector<std::unique_ptr<Drafter>> members_;
  bool planned_;
  Drafter::Needs needs_;
  uint64_t key_;
  std::vector<std::array<Calibration, kDepths * kBins>> calibrations_;  // per member
  std::vector<Payoff> payoffs_;
};

// Gives the rows of a step to where one more row gains most: asks the cheap drafters of every sequence and the neural
// ones where they have been paying off, merges what they propose, and keeps the trees that maximise the expected tokens
// per second of all sequences together; nothing at all if plain decoding is best.
class Planner {
 public:
  explicit Planner(VerifyCurve curve = {}) : curve_(std::move(curve)) {}
  // A sequence that decodes: one row for its root, and a draft behind it.
  struct Task {
    std::shared_ptr<DrafterSet> set;  // null: it does not draft
    DrafterSet::Drafting* drafting;
    int64_t budget, max_depth;  // nodes at most; depths stay below
    Draft draft;                // the result
  };
  // `budget`: nodes at most, over all tasks.
  void Propose(std::span<Task> tasks, int64_t budget);
  // After a pass over `rows` rows for the sequences of the last Propose, which brought `tokens` of them. `warm`: a time
  // to learn from.
  void Measure(int64_t rows, double pass_ms, int64_t tokens, bool warm);

  double draft_ms() const { return draft_ms_; }  // spent by the last Propose
  const VerifyCurve& curve() const { return curve_; }
  void MeasureRow(double ms) { curve_.MeasureRow(ms); }

 private:
  struct Choice {
    std::vector<std::vector<int32_t>> nodes;  // by task: of its pool, parents first
    double tokens_per_ms = 0;
  };
  void Ask(DrafterSet& set, size_t member, std::span<Task> tasks);
  bool AnotherLevelPays(const DrafterSet& set, size_t member, const DraftTask& task, double spent_ms) const;
  Choice Choose(std::span<Task> tasks, int64_t budget) const;

  VerifyCurve curve_;
  std::vector<std::shared_ptr<DrafterSet>> sets_;  // of the step under way, whose requests may have ended
  double draft_ms_ = 0;
};

}  // namespace cambium
