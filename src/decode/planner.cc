#include "decode/planner.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "base/check.h"
#include "decode/token_constraint.h"

namespace cambium {
namespace {

using Clock = std::chrono::steady_clock;

// A plan must promise this much more than plain decoding before it is taken: beliefs and clocks are noisy.
constexpr double kMargin = 1.03;
constexpr double kDoubt = 1.05;  // what was not seen is thought so much dearer than a guess, and plain decoding cheaper
constexpr double kPriorWeight = 4;    // observations that a drafter's own belief is worth
constexpr int64_t kFirstCalls = 4;    // a neural drafter's first calls are for learning, the next as many for judging
constexpr int64_t kFirstNodes = 8;    // of the first calls, whatever the drafter believes
constexpr double kTrialShare = 0.01;  // of the time, for tries of one that does not pay
constexpr double kMostBalance = 4;    // passes that one may lose when it stops paying

double MillisSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Drops what a constraint forbids, with all below it.
void Prune(const DraftText& text, Draft& draft) {
  std::vector<int32_t> path = text.tokens, number(draft.nodes.size(), -1);
  std::vector<Draft::Node> kept;
  for (size_t i = 0; i < draft.nodes.size(); ++i) {
    Draft::Node node = draft.nodes[i];
    if (node.parent >= 0) node.parent = number[static_cast<size_t>(node.parent)];
    if (draft.nodes[i].parent >= 0 && node.parent < 0) continue;
    path.resize(text.tokens.size());
    for (int32_t at = node.parent; at >= 0; at = kept[static_cast<size_t>(at)].parent) {
      path.push_back(kept[static_cast<size_t>(at)].token);
    }
    std::reverse(path.begin() + std::ssize(text.tokens), path.end());
    if (!text.constraint->Allows(path, node.token)) continue;
    number[i] = static_cast<int32_t>(kept.size());
    kept.push_back(node);
  }
  draft.nodes = std::move(kept);
}

}  // namespace

VerifyCurve::VerifyCurve() {
  for (const int64_t rows : {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64}) sizes_.push_back({rows});
  Learn();
}

void VerifyCurve::SetReads(const std::function<double(int64_t rows)>& reads) {
  for (Size& size : sizes_) size.reads = reads(size.rows);
  Learn();
}

void VerifyCurve::Measure(int64_t rows, double ms) {
  // The nearest size from above takes the time, so that one in between is never thought cheaper than it is.
  const auto size = std::ranges::lower_bound(sizes_, rows, {}, &Size::rows);
  if (size == sizes_.end()) return;
  // A stray scheduling hiccup must not poison the curve.
  size->ms.Push(size->ms.full() ? std::min(ms, 3 * size->ms.mean()) : ms);
  ++size->seen;
  Learn();
}

void VerifyCurve::MeasureRow(double ms) {
  row_ = row_ > 0 ? 0.75 * row_ + 0.25 * ms : ms;
  Learn();
}

// Least squares of (reads^2 weights^2 + n^2 row^2) / T(n)^2 against 1 over the sizes that were seen, and of row^2
// against what a prompt told, or a share of T(1) that is high for most CPUs: what is not known yet is not thought
// cheap.
void VerifyCurve::Fit() {
  constexpr double kRowShare = 0.4;
  double uu = 0, uv = 0, vv = 0, u1 = 0, v1 = 0, least = 0;
  for (const Size& size : sizes_) {
    if (size.seen == 0) continue;
    const double weight = static_cast<double>(std::min<int64_t>(size.seen, 16));
    const double n = static_cast<double>(size.rows), squared = size.ms.mean() * size.ms.mean();
    const double read = size.reads * size.reads, u = read / squared, v = n * n / squared;
    uu += weight * u * u;
    uv += weight * u * v;
    vv += weight * v * v;
    u1 += weight * u;
    v1 += weight * v;
    if (least == 0)
      least = size.ms.mean() / std::sqrt(read * (1 - kRowShare * kRowShare) + kRowShare * kRowShare * n * n);
  }
  const double row = row_ > 0 ? row_ : kRowShare * (least > 0 ? least : 1);
  const double prior = 1 / (row * row);
  vv += prior * prior;
  v1 += prior;
  if (least == 0) {  // nothing was verified yet
    row_squared_ = row * row;
    weights_squared_ = row_squared_ * (1 / (kRowShare * kRowShare) - 1);
    return;
  }
  const double determinant = uu * vv - uv * uv;
  weights_squared_ = determinant > 0 ? (u1 * vv - v1 * uv) / determinant : 0;
  row_squared_ = determinant > 0 ? (v1 * uu - u1 * uv) / determinant : v1 / vv;
  if (weights_squared_ < 0) {
    weights_squared_ = 0;
    row_squared_ = v1 / vv;
  }
  if (row_squared_ < 0) {
    row_squared_ = 0;
    weights_squared_ = u1 / uu;
  }
}

// Between two sizes that were seen the truth lies below their chord, as each further row costs more, and mostly above
// the fit: half of each.
double VerifyCurve::Guess(size_t index) const {
  const double n = static_cast<double>(sizes_[index].rows);
  const double reads = sizes_[index].reads;
  const double fitted = std::sqrt(reads * reads * weights_squared_ + n * n * row_squared_);
  const auto seen = [](const Size& size) { return size.seen > 0; };
  const auto above = std::find_if(sizes_.begin() + static_cast<int64_t>(index) + 1, sizes_.end(), seen);
  const auto below = std::find_if(sizes_.rend() - static_cast<int64_t>(index), sizes_.rend(), seen);
  if (below == sizes_.rend()) return fitted / kDoubt;
  if (above == sizes_.end()) return fitted * kDoubt;
  const double share = (n - static_cast<double>(below->rows)) / static_cast<double>(above->rows - below->rows);
  return kDoubt / 2 * (fitted + below->ms.mean() + share * (above->ms.mean() - below->ms.mean()));
}

void VerifyCurve::Learn() {
  Fit();
  double below = 0;
  for (size_t i = 0; i < sizes_.size(); ++i) {
    Size& size = sizes_[i];
    const double seen = static_cast<double>(size.seen);
    size.curve = below = std::max(below, (seen * size.ms.mean() + Guess(i)) / (seen + 1));
  }
}

bool VerifyCurve::measured() const {
  return std::ranges::any_of(sizes_, [](const Size& size) { return size.seen > 0; });
}

std::vector<VerifyCurve::Point> VerifyCurve::Known() const {
  constexpr int64_t kOften = 4;
  std::vector<Point> known;
  for (const Size& size : sizes_) {
    if (size.seen >= kOften) known.push_back({size.rows, size.ms.mean()});
  }
  return known;
}

double VerifyCurve::Ms(int64_t rows) const {
  const auto above = std::ranges::lower_bound(sizes_, rows, {}, &Size::rows);
  if (above == sizes_.end()) {
    return sizes_.back().curve * static_cast<double>(rows) / static_cast<double>(sizes_.back().rows);
  }
  if (above == sizes_.begin() || rows == above->rows) return above->curve;
  const Size& below = *(above - 1);
  const double share = static_cast<double>(rows - below.rows) / static_cast<double>(above->rows - below.rows);
  return below.curve + share * (above->curve - below.curve);
}

DrafterSet::DrafterSet(std::vector<std::unique_ptr<Drafter>> members, bool planned)
    : members_(std::move(members)), planned_(planned), calibrations_(members_.size()), payoffs_(members_.size()) {
  static std::atomic<uint64_t> sets{0};
  key_ = ++sets;
  Check(members_.size() <= 255, "a node of a draft names its drafter in a byte");
  for (const auto& member : members_) {
    const Drafter::Needs needs = member->needs();
    needs_.hidden = needs_.hidden || needs.hidden;
    if (needs.after_layer < 0) continue;
    if (needs_.after_layer >= 0 && needs_.after_layer != needs.after_layer) {
      Fail(ErrorCode::kUsage, "two drafters want the hidden states after different layers, ", needs_.after_layer,
           " and ", needs.after_layer);
    }
    needs_.after_layer = needs.after_layer;
  }
}

bool DrafterSet::keeps_kv() const {
  return std::ranges::any_of(members_, [](const auto& member) { return member->keeps_kv(); });
}

int64_t DrafterSet::Drafting::kept() const {
  int64_t kept = std::numeric_limits<int64_t>::max();
  for (const auto& session : sessions) kept = std::min(kept, session->kept());
  return kept;
}

DrafterSet::Drafting DrafterSet::Open(const DraftText& text) {
  Drafting drafting;
  drafting.text = &text;
  for (const auto& member : members_) drafting.sessions.push_back(member->Open(text));
  for (Payoff& payoff : payoffs_) {
    payoff.first = true;
    payoff.balance = std::max(payoff.balance, 0.0);  // another text, another try
  }
  return drafting;
}

void DrafterSet::Observe(Drafting& drafting, const Observation& observation) {
  Draft& pool = drafting.pool;
  int32_t node = -1;
  int depth = 0;
  for (size_t i = 1; i <= observation.tokens.size() && !pool.empty(); ++i, ++depth) {
    const int32_t drawn = i < observation.tokens.size() ? observation.tokens[i] : observation.next;
    int32_t match = -1;
    const size_t none = members_.size();
    size_t proposed = none, agreed = none;  // members at this level, the first a neural one
    for (size_t child = static_cast<size_t>(node + 1); child < pool.nodes.size(); ++child) {
      if (pool.nodes[child].parent != node) continue;
      const bool hit = pool.nodes[child].token == drawn;
      const size_t member = pool.nodes[child].drafter;
      if (!members_[member]->cheap()) proposed = member;
      if (hit) {
        match = static_cast<int32_t>(child);
        agreed = member;
      }
      Calibration& calibration = calibrations_[member][Slot(depth, drafting.raw[child])];
      calibration.outcome.Push(hit ? 1 : 0);
      calibration.predicted.Push(drafting.raw[child]);
    }
    if (proposed != none) payoffs_[proposed].agreement.Push(agreed != none ? 1 : 0);
    if (match < 0) break;
    node = match;
  }
  pool.nodes.clear();
  for (const auto& session : drafting.sessions) session->Observe(observation);
}

// Bins are finer towards 1: half a halving of the doubt each.
size_t DrafterSet::Slot(int depth, float probability) {
  const int bin = static_cast<int>(-2 * std::log2(std::clamp(1 - probability, 0.01f, 1.0f)));
  return static_cast<size_t>(std::min(depth, kDepths - 1) * kBins + std::min(bin, kBins - 1));
}

float DrafterSet::Calibrated(size_t member, int depth, float probability) const {
  const Calibration& seen = calibrations_[member][Slot(depth, probability)];
  const double ratio = (seen.outcome.sum() + kPriorWeight * probability) /
                       (seen.predicted.sum() + kPriorWeight * std::max(probability, 1e-3f));
  return static_cast<float>(std::clamp(probability * ratio, 0.001, 0.99));
}

bool DrafterSet::Payoff::Due(double plain) const {
  if (calls < 2 * kFirstCalls) return true;
  // Where others promise more than plain decoding, it must have brought more than they promise.
  const bool alone = without <= kMargin * plain;
  return balance >= 0 && (alone || tokens.sum() > kMargin * without * ms.sum());
}

// Another level is worth it while its tokens per ms are above those of the step so far. `spent_ms`: by this member.
bool Planner::AnotherLevelPays(const DrafterSet& set, size_t member, const DraftTask& task, double spent_ms) const {
  const Draft& draft = task.draft;
  const DrafterSet::Payoff& payoff = set.payoffs_[member];
  if (draft.empty() || (payoff.calls <= kFirstCalls && draft.size() < kFirstNodes)) return true;
  const std::vector<int32_t> depths = draft.Depths();
  std::vector<double> chance;
  double expected = 1, deepest = 0;
  for (size_t i = 0; i < draft.nodes.size(); ++i) {
    const Draft::Node& node = draft.nodes[i];
    const double own = set.Calibrated(member, depths[i], node.probability);
    chance.push_back(own * (node.parent < 0 ? 1.0 : chance[static_cast<size_t>(node.parent)]));
    expected += chance.back();
    if (depths[i] == depths.back()) deepest = std::max(deepest, chance.back());
  }
  const int64_t levels = depths.back() + 1, rows = draft.size() + 1;
  const double before = expected / (curve_.Ms(rows) + draft_ms_ + spent_ms);
  const double gain = deepest * payoff.agreement.mean();
  return gain / (curve_.Ms(rows + 1) - curve_.Ms(rows) + spent_ms / static_cast<double>(levels)) > before;
}

void Planner::Ask(DrafterSet& set, size_t member, std::span<Task> tasks) {
  std::vector<DraftTask> asked;
  std::vector<Task*> askers;
  for (Task& task : tasks) {
    if (task.set.get() != &set || task.max_depth <= 0 || task.budget <= 0) continue;
    asked.push_back({task.drafting->sessions[member].get(), task.budget, task.max_depth, {}});
    askers.push_back(&task);
  }
  if (asked.empty()) return;
  const Clock::time_point start = Clock::now();
  const double sharers = static_cast<double>(asked.size());
  Drafter::Pays pays;
  if (set.planned_) {
    pays = [&](const DraftTask& task) { return AnotherLevelPays(set, member, task, MillisSince(start) / sharers); };
  }
  set.members_[member]->Propose(asked, pays);
  draft_ms_ += MillisSince(start);
  for (size_t t = 0; t < asked.size(); ++t) {
    DrafterSet::Drafting& drafting = *askers[t]->drafting;
    Draft& draft = asked[t].draft;
    // The rejection rule needs a drawn draft as it is, and refuses what is forbidden by itself.
    const bool bound = drafting.text != nullptr && drafting.text->constraint != nullptr;
    if (bound && draft.proposals.empty()) Prune(*drafting.text, draft);
    if (!draft.proposals.empty()) {
      for (Draft::Node& node : draft.nodes) node.drafter = static_cast<uint8_t>(member);
      drafting.drawn = draft;
    }
    const std::vector<int32_t> depths = draft.Depths();
    std::vector<int32_t> in_pool;
    for (size_t i = 0; i < draft.nodes.size(); ++i) {
      const Draft::Node& node = draft.nodes[i];
      const int32_t parent = node.parent < 0 ? -1 : in_pool[static_cast<size_t>(node.parent)];
      const float probability = set.Calibrated(member, depths[i], node.probability);
      const int64_t before = drafting.pool.size();
      const int32_t at = drafting.pool.Add(parent, node.token, probability, static_cast<uint8_t>(member));
      in_pool.push_back(at);
      if (drafting.pool.size() > before) {
        drafting.raw.push_back(node.probability);
      } else if (Draft::Node& old = drafting.pool.nodes[static_cast<size_t>(at)]; old.probability < probability) {
        old.probability = probability;  // two drafters agree: the surer one speaks
        old.drafter = static_cast<uint8_t>(member);
        drafting.raw[static_cast<size_t>(at)] = node.probability;
      }
    }
  }
}

Planner::Choice Planner::Choose(std::span<Task> tasks, int64_t budget) const {
  struct Candidate {
    double chance;  // of the node's whole path: a product along it, so the best n nodes of a task are always a tree
    size_t task;
    int32_t node;
  };
  std::vector<Candidate> order;
  double expected = static_cast<double>(tasks.size());
  int64_t rows = std::ssize(tasks);
  for (size_t t = 0; t < tasks.size(); ++t) {
    if (tasks[t].set == nullptr) continue;
    const DrafterSet::Drafting& drafting = *tasks[t].drafting;
    std::vector<double> chance;
    for (const Draft::Node& node : drafting.pool.nodes) {
      chance.push_back(node.probability * (node.parent < 0 ? 1.0 : chance[static_cast<size_t>(node.parent)]));
    }
    if (!drafting.drawn.empty() || !tasks[t].set->planned()) {  // taken whole
      rows += std::ssize(chance);
      for (const double c : chance) expected += c;
      continue;
    }
    const size_t first = order.size();
    for (size_t i = 0; i < chance.size(); ++i) order.push_back({chance[i], t, static_cast<int32_t>(i)});
    std::stable_sort(order.begin() + static_cast<int64_t>(first), order.end(),
                     [](const Candidate& a, const Candidate& b) { return a.chance > b.chance; });
    order.resize(std::min(order.size(), first + static_cast<size_t>(tasks[t].budget)));
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const Candidate& a, const Candidate& b) { return a.chance > b.chance; });
  order.resize(std::min(order.size(), static_cast<size_t>(std::max<int64_t>(0, budget))));

  Choice choice;
  choice.nodes.resize(tasks.size());
  choice.tokens_per_ms = expected / (curve_.Ms(rows) + draft_ms_);
  double bar = choice.tokens_per_ms * kMargin;
  size_t best = 0;
  for (size_t n = 1; n <= order.size(); ++n) {
    expected += order[n - 1].chance;
    const double rate = expected / (curve_.Ms(rows + static_cast<int64_t>(n)) + draft_ms_);
    if (rate > bar) {
      bar = choice.tokens_per_ms = rate;
      best = n;
    }
  }
  for (size_t n = 0; n < best; ++n) choice.nodes[order[n].task].push_back(order[n].node);
  for (std::vector<int32_t>& nodes : choice.nodes) std::ranges::sort(nodes);
  return choice;
}

void Planner::Propose(std::span<Task> tasks, int64_t budget) {
  draft_ms_ = 0;
  sets_.clear();
  for (Task& task : tasks) {
    if (task.set == nullptr) continue;
    task.drafting->pool.nodes.clear();
    task.drafting->raw.clear();
    task.drafting->drawn = {};
    if (std::ranges::find(sets_, task.set) == sets_.end()) sets_.push_back(task.set);
  }
  for (const auto& set : sets_) {
    for (size_t i = 0; i < set->members_.size(); ++i) {
      set->payoffs_[i].asked = false;
      if (set->members_[i]->cheap()) Ask(*set, i, tasks);
    }
  }
  Choice choice = Choose(tasks, budget);
  const double plain = static_cast<double>(tasks.size()) / curve_.Ms(std::ssize(tasks));
  for (const auto& set : sets_) {
    for (size_t i = 0; i < set->members_.size(); ++i) {
      if (set->members_[i]->cheap()) continue;
      DrafterSet::Payoff& payoff = set->payoffs_[i];
      payoff.without = choice.tokens_per_ms;
      if (set->planned_ && !payoff.Due(plain)) continue;
      payoff.asked = true;
      ++payoff.calls;
      Ask(*set, i, tasks);
      choice = Choose(tasks, budget);
    }
  }
  for (size_t t = 0; t < tasks.size(); ++t) {
    Task& task = tasks[t];
    task.draft = {};
    if (task.set == nullptr) continue;
    if (!task.drafting->drawn.empty()) {
      task.draft = std::move(task.drafting->drawn);
      continue;
    }
    if (!task.set->planned()) {
      task.draft = task.drafting->pool;
      continue;
    }
    std::vector<int32_t> renumbered(task.drafting->pool.nodes.size(), -1);
    for (const int32_t index : choice.nodes[t]) {
      Draft::Node node = task.drafting->pool.nodes[static_cast<size_t>(index)];
      if (node.parent >= 0) node.parent = renumbered[static_cast<size_t>(node.parent)];
      renumbered[static_cast<size_t>(index)] = static_cast<int32_t>(task.draft.nodes.size());
      task.draft.nodes.push_back(node);
    }
  }
}

void Planner::Measure(int64_t rows, double pass_ms, int64_t tokens, bool warm) {
  if (warm) curve_.Measure(rows, pass_ms);
  for (const auto& set : sets_) {
    for (DrafterSet::Payoff& payoff : set->payoffs_) {
      if (payoff.balance < 0) payoff.balance = std::min(0.0, payoff.balance + kTrialShare * pass_ms);
      if (!payoff.asked) continue;
      if (std::exchange(payoff.first, false) || payoff.calls <= kFirstCalls) continue;
      const double brought = static_cast<double>(tokens), ms = pass_ms + draft_ms_;
      payoff.tokens.Push(brought);
      payoff.ms.Push(ms);
      payoff.balance = std::min(payoff.balance + brought / payoff.without - ms, kMostBalance * curve_.Ms(1));
    }
  }
  sets_.clear();
}

}  // namespace cambium
