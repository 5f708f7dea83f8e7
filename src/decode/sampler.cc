#include "decode/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/random.h"
#include "decode/top.h"

namespace cambium {
namespace {

bool Before(const Sampler::Candidate& a, const Sampler::Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

void Require(bool good, const char* name, double value, const char* range) {
  if (!good) Fail(ErrorCode::kUsage, name, " is ", value, ", expected ", range);
}

}  // namespace

Sampler::Sampler(SamplingOptions options, const DrawRules& rules) : options_(std::move(options)), rules_(rules) {
  const SamplingOptions& o = options_;
  Require(o.temperature >= 0 && std::isfinite(o.temperature), "temperature", o.temperature, "a number >= 0");
  Require(o.top_k >= 0, "top-k", o.top_k, ">= 0");
  Require(o.top_p > 0 && o.top_p <= 1, "top-p", o.top_p, "above 0, at most 1");
  Require(o.min_p >= 0 && o.min_p <= 1, "min-p", o.min_p, "0 to 1");
  Require(o.repeat_penalty > 0 && std::isfinite(o.repeat_penalty), "repeat-penalty", o.repeat_penalty, "above 0");
  Require(o.repeat_last_n >= -1, "repeat-last-n", o.repeat_last_n, ">= -1");
  Require(o.no_repeat_ngram >= 0, "no-repeat-ngram", o.no_repeat_ngram, ">= 0");
  Require(std::abs(o.presence_penalty) <= 2, "presence-penalty", o.presence_penalty, "-2 to 2");
  Require(std::abs(o.frequency_penalty) <= 2, "frequency-penalty", o.frequency_penalty, "-2 to 2");
}

bool Sampler::may_end(std::span<const int32_t> history) const {
  return std::ssize(history) - rules_.prompt >= rules_.min_tokens;
}

bool Sampler::adjusts(std::span<const int32_t> history) const {
  return rules_.constraint != nullptr || rules_.filter != nullptr || !options_.logit_bias.empty() ||
         options_.no_repeat_ngram > 0 || forced(history) >= 0 || options_.repeat_penalty != 1.0f ||
         options_.presence_penalty != 0 || options_.frequency_penalty != 0 || !may_end(history);
}

void Sampler::Adjust(std::span<const int32_t> history) {
  if (rules_.constraint != nullptr) rules_.constraint->Apply(history, adjusted_);
  if (rules_.filter != nullptr) rules_.filter->Apply(history, adjusted_);
  const auto at = [&](int32_t token) {
    return token >= 0 && static_cast<size_t>(token) < adjusted_.size() ? &adjusted_[static_cast<size_t>(token)]
                                                                       : nullptr;
  };
  if (!may_end(history)) {
    for (const int32_t token : rules_.end_tokens) {
      if (float* const logit = at(token)) *logit = -std::numeric_limits<float>::infinity();
    }
  }
  for (const auto& [token, bias] : options_.logit_bias) {
    if (float* const logit = at(token)) *logit += bias;
  }
  if (options_.repeat_penalty != 1.0f) PenalizeRepeats(history);
  if (options_.presence_penalty != 0 || options_.frequency_penalty != 0) {
    PenalizeAnswer(history.subspan(std::min(history.size(), static_cast<size_t>(rules_.prompt))));
  }
  if (options_.no_repeat_ngram > 0) BanRepeats(history);
  if (const int32_t token = forced(history); token >= 0 && at(token) != nullptr) {
    std::ranges::fill(adjusted_, -std::numeric_limits<float>::infinity());
    *at(token) = 0;
  }
}

int32_t Sampler::forced(std::span<const int32_t> history) const {
  const int64_t answered = std::ssize(history) - rules_.prompt;
  if (rules_.forced_last >= 0 && answered + 1 == rules_.max_tokens) return rules_.forced_last;
  return answered == 0 ? rules_.forced_first : -1;
}

// Where the last n - 1 tokens stood before, what followed them there may not follow again.
void Sampler::BanRepeats(std::span<const int32_t> history) {
  const size_t n = static_cast<size_t>(options_.no_repeat_ngram);
  if (history.size() + 1 < n) return;
  const std::span<const int32_t> end = history.last(n - 1);
  for (size_t i = 0; i + n <= history.size(); ++i) {
    const size_t token = static_cast<size_t>(history[i + n - 1]);
    if (token < adjusted_.size() && std::ranges::equal(history.subspan(i, n - 1), end)) {
      adjusted_[token] = -std::numeric_limits<float>::infinity();
    }
  }
}

// f(logit, times) for each token that the text holds.
template <class F>
void Sampler::ForEachSeen(std::span<const int32_t> text, const F& f) {
  std::vector<int32_t> seen(text.begin(), text.end());
  std::sort(seen.begin(), seen.end());
  for (auto begin = seen.begin(); begin != seen.end();) {
    const auto end = std::upper_bound(begin, seen.end(), *begin);
    if (static_cast<size_t>(*begin) < adjusted_.size()) f(adjusted_[static_cast<size_t>(*begin)], end - begin);
    begin = end;
  }
}

void Sampler::PenalizeRepeats(std::span<const int32_t> history) {
  if (options_.repeat_last_n >= 0 && history.size() > static_cast<size_t>(options_.repeat_last_n)) {
    history = history.last(static_cast<size_t>(options_.repeat_last_n));
  }
  ForEachSeen(history, [&](float& logit, int64_t) {
    logit = logit > 0 ? logit / options_.repeat_penalty : logit * options_.repeat_penalty;
  });
}

void Sampler::PenalizeAnswer(std::span<const int32_t> answer) {
  ForEachSeen(answer, [&](float& logit, int64_t times) {
    logit -= options_.presence_penalty + static_cast<float>(times) * options_.frequency_penalty;
  });
}

std::span<const float> Sampler::Adjusted(std::span<const float> logits, std::span<const int32_t> history) {
  logits = logits.first(static_cast<size_t>(std::min(rules_.vocabulary, static_cast<int64_t>(logits.size()))));
  if (!adjusts(history)) return logits;
  adjusted_.assign(logits.begin(), logits.end());
  Adjust(history);
  return adjusted_;
}

std::span<const Sampler::Candidate> Sampler::Warp(std::span<const float> logits, std::span<const int32_t> history) {
  logits = Adjusted(logits, history);
  const int64_t best = ArgMax(logits);
  if (best < 0) Fail(ErrorCode::kRuntime, "the model's logits are not finite; `cambium inspect --check` looks for NaN");
  candidates_.clear();
  const float top = logits[static_cast<size_t>(best)];
  if (greedy() || std::isinf(top)) {
    candidates_.push_back({static_cast<int32_t>(best), top});
    return candidates_;
  }

  // Nothing below min-p's bar survives, whatever top-k and top-p do; the bar is on untempered probabilities.
  const float bar = options_.min_p > 0 ? top + std::log(options_.min_p) : -std::numeric_limits<float>::infinity();
  const size_t top_k = options_.top_k > 0 ? static_cast<size_t>(options_.top_k) : logits.size();
  // top-p needs the mass of all that top-k leaves, so min-p cuts only after it.
  const bool early_bar = options_.top_p >= 1.0f;
  float floor = early_bar ? bar : -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] >= floor) || std::isinf(logits[i])) continue;
    candidates_.push_back({static_cast<int32_t>(i), logits[i]});
    if (candidates_.size() >= 4 * top_k + 64) {  // keep the heap of survivors small
      std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<int64_t>(top_k) - 1, candidates_.end(),
                       Before);
      candidates_.resize(top_k);
      floor = std::max(floor, candidates_.back().logit);
    }
  }
  if (candidates_.size() > top_k) {
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<int64_t>(top_k) - 1, candidates_.end(),
                     Before);
    candidates_.resize(top_k);
  }
  std::sort(candidates_.begin(), candidates_.end(), Before);

  if (options_.top_p < 1.0f) {
    double total = 0, mass = 0;
    for (const Candidate& c : candidates_) total += std::exp(static_cast<double>(c.logit) - top);
    size_t keep = 0;
    while (keep < candidates_.size() && mass < options_.top_p * total) {
      mass += std::exp(static_cast<double>(candidates_[keep++].logit) - top);
    }
    candidates_.resize(keep);
  }
  while (candidates_.size() > 1 && candidates_.back().logit < bar) candidates_.pop_back();
  for (Candidate& c : candidates_) c.logit /= options_.temperature;
  return candidates_;
}

int32_t Sampler::Draw(std::span<const float> logits, std::span<const int32_t> history, int64_t position) {
  const std::span<const Candidate> left = Warp(logits, history);
  if (left.size() == 1) return left.front().token;
  const Philox noise(options_.seed);
  int32_t token = left.front().token;
  double best = -std::numeric_limits<double>::infinity();
  for (const Candidate& c : left) {
    const double value = c.logit + noise.Gumbel(static_cast<uint64_t>(position), static_cast<uint64_t>(c.token));
    if (value > best) {
      best = value;
      token = c.token;
    }
  }
  return token;
}

}  // namespace cambium
