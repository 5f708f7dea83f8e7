#include "decode/verify.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "base/random.h"

namespace cambium {
namespace {

// Noise of the rejection rule, apart from the draws' (position, token): the drafter may have drawn with those.
constexpr uint64_t kAccept = uint64_t{1} << 40, kResidual = uint64_t{1} << 41;

// Probabilities of candidates, in their order.
std::vector<double> Softmax(std::span<const Sampler::Candidate> candidates) {
  std::vector<double> p;
  double total = 0;
  for (const Sampler::Candidate& c : candidates) {
    p.push_back(candidates.size() == 1 ? 1.0 : std::exp(static_cast<double>(c.logit) - candidates.front().logit));
    total += p.back();
  }
  for (double& value : p) value /= total;
  return p;
}

size_t Find(std::span<const Sampler::Candidate> candidates, int32_t token) {
  const auto found = std::ranges::find(candidates, token, &Sampler::Candidate::token);
  return static_cast<size_t>(found - candidates.begin());
}

}  // namespace

VerifyRule ParseVerifyRule(const std::string& text) {
  VerifyRule rule;
  if (text == "match") return rule;
  if (text == "rejection") return {VerifyRule::kRejection};
  const size_t colon = text.find(':');
  if (text.substr(0, colon) != "typical") {
    Fail(ErrorCode::kUsage, "--verify \"", text, "\": there are match, rejection and typical[:epsilon=E,delta=D]");
  }
  rule.kind = VerifyRule::kTypical;
  for (size_t begin = colon; begin < text.size();) {
    const size_t end = std::min(text.find(',', ++begin), text.size());
    const std::string item = text.substr(begin, end - begin);
    const size_t equals = item.find('=');
    const std::string key = item.substr(0, equals);
    double* const value = key == "epsilon" ? &rule.epsilon : key == "delta" ? &rule.delta : nullptr;
    char* last = nullptr;
    if (value != nullptr && equals != std::string::npos) *value = std::strtod(item.c_str() + equals + 1, &last);
    if (last == nullptr || *last != '\0' || !(*value > 0 && *value <= 1)) {
      Fail(ErrorCode::kUsage, "--verify typical: \"", item, "\" is neither epsilon=E nor delta=D, above 0, at most 1");
    }
    begin = end;
  }
  return rule;
}

Judge::Choice Judge::At(int32_t node, std::vector<int32_t>& history) {
  if (rule_.kind == VerifyRule::kRejection) return Reject(node, history);
  if (rule_.kind == VerifyRule::kTypical) {
    if (!typical_) typical_ = LongestTypical(-1, history);
    if (typical_taken_ < typical_->nodes.size()) {
      const int32_t child = typical_->nodes[typical_taken_++];
      return {draft_.nodes[static_cast<size_t>(child)].token, child};
    }
    return {Match(node, history).token, -1};
  }
  return Match(node, history);
}

Judge::Choice Judge::Match(int32_t node, std::span<const int32_t> history) {
  const int32_t token = sampler_.Draw(Row(node), history, static_cast<int64_t>(history.size()));
  return {token, draft_.Child(node, token)};
}

// Children in turn: x, drawn from q, is taken with probability min(1, p(x) / q(x)); else p becomes norm((p - q)+). A
// child that was chosen and not drawn has q = 1 on itself: taken with probability p(x), else x leaves p. What is left
// after the last child is drawn from. The result has the distribution p whatever was proposed.
Judge::Choice Judge::Reject(int32_t node, std::span<const int32_t> history) {
  const Philox noise(sampler_.options().seed);
  const uint64_t position = history.size();
  const std::span<const Sampler::Candidate> candidates = sampler_.Warp(Row(node), history);
  std::vector<double> p = Softmax(candidates);
  const std::vector<Draft::Share>* const proposal = draft_.Proposal(node);
  for (size_t child = static_cast<size_t>(node + 1); child < draft_.nodes.size(); ++child) {
    if (draft_.nodes[child].parent != node) continue;
    const int32_t token = draft_.nodes[child].token;
    std::vector<double> q(p.size());
    double q_token = 1;  // of this token, also where the target would not draw it
    if (const size_t at = Find(candidates, token); proposal == nullptr && at < q.size()) q[at] = 1;
    if (proposal != nullptr) {
      for (const auto& [other, share] : *proposal) {
        if (const size_t at = Find(candidates, other); at < q.size()) q[at] = share;
        if (other == token) q_token = share;
      }
    }
    const size_t at = Find(candidates, token);
    if (at < p.size() && noise.Uniform(position, kAccept + child) * q_token < p[at]) {
      return {token, static_cast<int32_t>(child)};
    }
    double total = 0;
    for (size_t i = 0; i < p.size(); ++i) total += p[i] = std::max(0.0, p[i] - q[i]);
    if (total <= 0) return {token, static_cast<int32_t>(child)};  // p = q up to rounding
    for (double& value : p) value /= total;
  }
  size_t best = 0;
  double highest = -std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] <= 0) continue;
    const double value =
        std::log(p[i]) + noise.Gumbel(position, kResidual + static_cast<uint64_t>(candidates[i].token));
    if (value > highest) {
      highest = value;
      best = i;
    }
  }
  return {candidates[best].token, -1};
}

// The longest path of tokens that are typical where they stand; of equally long ones the likeliest.
Judge::Path Judge::LongestTypical(int32_t node, std::vector<int32_t>& history) {
  std::vector<std::pair<int32_t, double>> taken;  // children and their log-probabilities
  {
    const std::span<const Sampler::Candidate> candidates = sampler_.Warp(Row(node), history);
    const std::vector<double> p = Softmax(candidates);
    double entropy = 0;
    for (const double value : p) entropy -= value * std::log(value + 1e-5);
    const double bar = std::min(rule_.epsilon, rule_.delta * std::exp(-entropy));
    for (size_t child = static_cast<size_t>(node + 1); child < draft_.nodes.size(); ++child) {
      if (draft_.nodes[child].parent != node) continue;
      const size_t at = Find(candidates, draft_.nodes[child].token);
      if (at < p.size() && p[at] > bar) taken.push_back({static_cast<int32_t>(child), std::log(p[at])});
    }
  }
  Path best;
  for (const auto& [child, log_probability] : taken) {
    history.push_back(draft_.nodes[static_cast<size_t>(child)].token);
    Path path = LongestTypical(child, history);
    history.pop_back();
    path.nodes.insert(path.nodes.begin(), child);
    path.log_probability += log_probability;
    if (path.nodes.size() > best.nodes.size() ||
        (path.nodes.size() == best.nodes.size() && path.log_probability > best.log_probability)) {
      best = std::move(path);
    }
  }
  return best;
}

}  // namespace cambium
