#include "decode/planner.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

namespace cambium {
namespace {

using Clock = std::chrono::steady_clock;

// A plan must promise this much more than plain decoding before it is taken: beliefs and clocks are noisy.
constexpr double kMargin = 1.03;
constexpr double kPriorWeight = 4;       // observations that a drafter's own belief is worth
constexpr int64_t kFirstCalls = 4;       // a neural drafter's first calls are for learning, the next as many for judging
constexpr int64_t kFirstNodes = 8;       // of the first calls, whatever the drafter believes
constexpr double kTrialShare = 0.01;     // of the time, for tries of one that does not pay
constexpr double kMostBalance = 4;       // passes that one may lose when it stops paying
constexpr int64_t kColdPasses = 2;       // of a request: slower than the next ones, whatever their rows

double MillisSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

}  // namespace

VerifyCurve::VerifyCurve() {
  // Ratios of a 4-bit model on two AVX-512 cores; every measurement replaces its point.
  for (const auto& [rows, prior] : {std::pair<int64_t, double>{1, 1.0}, {2, 1.06}, {3, 1.13}, {4, 1.2}, {6, 1.4},
                                    {8, 1.65}, {12, 2.2}, {16, 2.8}, {24, 4.0}, {32, 5.2}, {48, 7.6}, {64, 10.0}}) {
    points_.push_back({rows, prior, SlidingMean(16)});
  }
}

void VerifyCurve::Measure(int64_t rows, double ms) {
  // The nearest point from above takes the time, so that a size in between is never thought cheaper than it is.
  for (Point& point : points_) {
    if (rows <= point.rows) {
      // A stray scheduling hiccup must not poison the curve.
      point.ms.Push(point.ms.full() ? std::min(ms, 3 * point.ms.mean()) : ms);
      return;
    }
  }
}

double VerifyCurve::Scale() const {
  for (const Point& point : points_) {
    if (point.ms.mean() > 0) return point.ms.mean() / point.prior;
  }
  return 1.0;
}

double VerifyCurve::Ms(int64_t rows) const {
  const double scale = Scale();
  double below_rows = 0, below = 0, floor = 0;
  for (const Point& point : points_) {
    const double ms = std::max(floor, point.ms.mean() > 0 ? point.ms.mean() : point.prior * scale);
    if (rows <= point.rows) {
      if (below_rows == 0 || rows == point.rows) return ms;
      const double share = (static_cast<double>(rows) - below_rows) / (static_cast<double>(point.rows) - below_rows);
      return below + share * (ms - below);
    }
    below_rows = static_cast<double>(point.rows);
    below = floor = ms;
  }
  return below * static_cast<double>(rows) / below_rows;
}

Planner::Planner(std::vector<std::unique_ptr<Drafter>> members)
    : members_(std::move(members)), calibrations_(members_.size()), payoffs_(members_.size()) {}

Drafter::Needs Planner::needs() const {
  Needs all;
  for (const auto& member : members_) {
    const Needs needs = member->needs();
    all.hidden = all.hidden || needs.hidden;
    if (needs.after_layer < 0) continue;
    if (all.after_layer >= 0 && all.after_layer != needs.after_layer) {
      Fail(ErrorCode::kUsage, "two drafters want the hidden states after different layers, ", all.after_layer, " and ",
           needs.after_layer);
    }
    all.after_layer = needs.after_layer;
  }
  return all;
}

void Planner::Sampling(const SamplingOptions& sampling, bool proposals) {
  for (const auto& member : members_) member->Sampling(sampling, proposals);
}

void Planner::Begin(std::span<const int32_t> prompt) {
  pool_.nodes.clear();
  asked_.clear();
  passes_ = 0;
  for (Payoff& payoff : payoffs_) {
    payoff.first = true;
    payoff.balance = std::max(payoff.balance, 0.0);  // another text, another try
  }
  for (const auto& member : members_) member->Begin(prompt);
}

void Planner::Observe(const Observation& observation) {
  ScorePool(observation);
  observed_ = static_cast<int64_t>(observation.tokens.size());
  for (const auto& member : members_) member->Observe(observation);
}

// Compares what was proposed, verified or not, with what the target drew.
void Planner::ScorePool(const Observation& observation) {
  int32_t node = -1;
  int depth = 0;
  for (size_t i = 1; i <= observation.tokens.size() && !pool_.empty(); ++i, ++depth) {
    const int32_t drawn = i < observation.tokens.size() ? observation.tokens[i] : observation.next;
    int32_t match = -1;
    const int none = static_cast<int>(members_.size());
    int proposed = none, agreed = none;  // neural members at this level
    for (size_t child = static_cast<size_t>(node + 1); child < pool_.nodes.size(); ++child) {
      if (pool_.nodes[child].parent != node) continue;
      const bool hit = pool_.nodes[child].token == drawn;
      const int member = pool_.nodes[child].drafter;
      if (!members_[static_cast<size_t>(member)]->cheap()) proposed = member;
      if (hit) match = static_cast<int32_t>(child);
      if (hit) agreed = member;
      Calibration& calibration = calibrations_[pool_.nodes[child].drafter][Slot(depth, raw_[child])];
      calibration.outcome.Push(hit ? 1 : 0);
      calibration.predicted.Push(raw_[child]);
    }
    if (proposed != none) payoffs_[static_cast<size_t>(proposed)].agreement.Push(agreed != none ? 1 : 0);
    if (match < 0) break;
    node = match;
  }
  pool_.nodes.clear();
}

// Bins are finer towards 1: half a halving of the doubt each.
size_t Planner::Slot(int depth, float probability) {
  const int bin = static_cast<int>(-2 * std::log2(std::clamp(1 - probability, 0.01f, 1.0f)));
  return static_cast<size_t>(std::min(depth, kDepths - 1) * kBins + std::min(bin, kBins - 1));
}

float Planner::Calibrated(size_t member, int depth, float probability) const {
  const Calibration& seen = calibrations_[member][Slot(depth, probability)];
  const double ratio = (seen.outcome.sum() + kPriorWeight * probability) /
                       (seen.predicted.sum() + kPriorWeight * std::max(probability, 1e-3f));
  return static_cast<float>(std::clamp(probability * ratio, 0.001, 0.99));
}

// Another level is worth it while its tokens per ms are above those of the step so far.
bool Planner::AnotherLevelPays(size_t member, const Draft& draft, double spent_ms) const {
  if (draft.empty() || (payoffs_[member].calls <= kFirstCalls && static_cast<int64_t>(draft.nodes.size()) < kFirstNodes)) {
    return true;
  }
  const std::vector<int32_t> depths = draft.Depths();
  std::vector<double> chance;
  double expected = 1, deepest = 0;
  for (size_t i = 0; i < draft.nodes.size(); ++i) {
    const Draft::Node& node = draft.nodes[i];
    const double own = Calibrated(member, depths[i], node.probability);
    chance.push_back(own * (node.parent < 0 ? 1.0 : chance[static_cast<size_t>(node.parent)]));
    expected += chance.back();
    if (depths[i] == depths.back()) deepest = std::max(deepest, chance.back());
  }
  const int64_t levels = depths.back() + 1, rows = static_cast<int64_t>(draft.nodes.size()) + 1;
  const double before = expected / (curve_.Ms(rows) + draft_ms_ + spent_ms);
  const double gain = deepest * payoffs_[member].agreement.mean();
  return gain / (curve_.Ms(rows + 1) - curve_.Ms(rows) + spent_ms / static_cast<double>(levels)) > before;
}

void Planner::Ask(size_t member, int64_t budget, int64_t max_depth) {
  Draft draft;
  const Clock::time_point start = Clock::now();
  Drafter& drafter = *members_[member];
  drafter.set_pays([this, member, start](const Draft& so_far) {
    return AnotherLevelPays(member, so_far, MillisSince(start));
  });
  drafter.Propose(budget, max_depth, draft);
  draft_ms_ += MillisSince(start);
  if (!draft.proposals.empty()) {
    for (Draft::Node& node : draft.nodes) node.drafter = static_cast<uint8_t>(member);
    drawn_ = draft;
  }
  const std::vector<int32_t> depths = draft.Depths();
  std::vector<int32_t> in_pool;
  for (size_t i = 0; i < draft.nodes.size(); ++i) {
    const Draft::Node& node = draft.nodes[i];
    const int32_t parent = node.parent < 0 ? -1 : in_pool[static_cast<size_t>(node.parent)];
    const float probability = Calibrated(member, depths[i], node.probability);
    const size_t before = pool_.nodes.size();
    const int32_t at = pool_.Add(parent, node.token, probability, static_cast<uint8_t>(member));
    in_pool.push_back(at);
    if (pool_.nodes.size() > before) {
      raw_.push_back(node.probability);
    } else if (Draft::Node& old = pool_.nodes[static_cast<size_t>(at)]; old.probability < probability) {
      old.probability = probability;  // two drafters agree: the surer one speaks
      old.drafter = static_cast<uint8_t>(member);
      raw_[static_cast<size_t>(at)] = node.probability;
    }
  }
}

Planner::Plan Planner::Choose(int64_t budget) const {
  // A node's chance is the product along its path, so the best n nodes are always a tree.
  std::vector<double> chance(pool_.nodes.size());
  std::vector<int32_t> order(pool_.nodes.size());
  for (size_t i = 0; i < pool_.nodes.size(); ++i) {
    const Draft::Node& node = pool_.nodes[i];
    chance[i] = node.probability * (node.parent < 0 ? 1.0 : chance[static_cast<size_t>(node.parent)]);
    order[i] = static_cast<int32_t>(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return chance[static_cast<size_t>(a)] > chance[static_cast<size_t>(b)];
  });
  if (static_cast<int64_t>(order.size()) > budget) order.resize(static_cast<size_t>(budget));

  Plan plan;
  plan.tokens_per_ms = 1 / (curve_.Ms(1) + draft_ms_);
  double expected = 1, bar = plan.tokens_per_ms * kMargin;
  size_t best = 0;
  for (size_t n = 1; n <= order.size(); ++n) {
    expected += chance[static_cast<size_t>(order[n - 1])];
    const double rate = expected / (curve_.Ms(static_cast<int64_t>(n) + 1) + draft_ms_);
    if (rate > bar) {
      bar = plan.tokens_per_ms = rate;
      best = n;
    }
  }
  order.resize(best);
  std::sort(order.begin(), order.end());
  plan.nodes = std::move(order);
  return plan;
}

bool Planner::Payoff::Due(double plain) const {
  if (calls < 2 * kFirstCalls) return true;
  // Where others promise more than plain decoding, it must have brought more than they promise.
  const bool alone = without <= kMargin * plain;
  return balance >= 0 && (alone || tokens.sum() > kMargin * without * ms.sum());
}

void Planner::Propose(int64_t budget, int64_t max_depth, Draft& draft) {
  pool_.nodes.clear();
  raw_.clear();
  drawn_ = {};
  asked_.clear();
  draft_ms_ = 0;
  for (size_t i = 0; i < members_.size(); ++i) {
    if (members_[i]->cheap()) Ask(i, budget, max_depth);
  }
  Plan plan = Choose(budget);
  for (size_t i = 0; i < members_.size(); ++i) {
    if (members_[i]->cheap()) continue;
    payoffs_[i].without = plan.tokens_per_ms;
    if (!payoffs_[i].Due(1 / curve_.Ms(1))) continue;
    asked_.push_back(i);
    ++payoffs_[i].calls;
    Ask(i, budget, max_depth);
    plan = Choose(budget);
  }
  if (!drawn_.empty()) {
    draft = std::move(drawn_);
    return;
  }
  std::vector<int32_t> renumbered(pool_.nodes.size(), -1);
  for (int32_t index : plan.nodes) {
    Draft::Node node = pool_.nodes[static_cast<size_t>(index)];
    if (node.parent >= 0) node.parent = renumbered[static_cast<size_t>(node.parent)];
    renumbered[static_cast<size_t>(index)] = static_cast<int32_t>(draft.nodes.size());
    draft.nodes.push_back(node);
  }
}

void Planner::Measure(int64_t rows, double pass_ms) {
  if (++passes_ > kColdPasses) curve_.Measure(rows, pass_ms);
  for (Payoff& payoff : payoffs_) {
    if (payoff.balance < 0) payoff.balance = std::min(0.0, payoff.balance + kTrialShare * pass_ms);
  }
  for (const size_t member : asked_) {
    Payoff& payoff = payoffs_[member];
    if (std::exchange(payoff.first, false) || payoff.calls <= kFirstCalls) continue;
    const double tokens = static_cast<double>(observed_), ms = pass_ms + draft_ms_;
    payoff.tokens.Push(tokens);
    payoff.ms.Push(ms);
    payoff.balance = std::min(payoff.balance + tokens / payoff.without - ms, kMostBalance * curve_.Ms(1));
  }
}

}  // namespace cambium
