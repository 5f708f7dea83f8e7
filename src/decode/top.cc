#include "decode/top.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "ops/ops.h"

namespace cambium {
namespace {

constexpr size_t kBlock = 256, kLanes = 16;

// The largest value of a block. Lanes apart, so that the compiler may take whole vectors; NaN never wins.
float Largest(const float* values, size_t count) {
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
    }
  }
  for (; i < count; ++i) lanes[0] = values[i] > lanes[0] ? values[i] : lanes[0];
  return *std::max_element(lanes, lanes + kLanes);
}

// Sum of e^(x - highest) over the values up to `most`, by Schraudolph's exponential (Neural Computation 11, 1999),
// which fills in the bits of a float and is within 3 %.
float SumExp(std::span<const float> values, float highest, float most) {
  constexpr float kScale = 12102203.0f, kBias = 1064986823.0f;  // 2^23 / ln 2; 2^23 * 127 less the mean error
  float lanes[kLanes] = {};
  const auto add = [&](float& lane, float value) {
    const float bits = (value - highest) * kScale + kBias;
    lane += std::bit_cast<float>(bits > 0 && value <= most ? static_cast<int32_t>(bits) : 0);
  };
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) add(lanes[lane], values[i + lane]);
  }
  for (; i < values.size(); ++i) add(lanes[0], values[i]);
  return std::accumulate(lanes, lanes + kLanes, 0.0f);
}

}  // namespace

int64_t ArgMax(std::span<const float> values) {
  float best = -std::numeric_limits<float>::infinity();
  size_t block = values.size();
  for (size_t begin = 0; begin < values.size(); begin += kBlock) {
    const float top = Largest(values.data() + begin, std::min(kBlock, values.size() - begin));
    if (top > best) {
      best = top;
      block = begin;
    }
  }
  if (block == values.size()) return -1;
  while (values[block] != best) ++block;
  return static_cast<int64_t>(block);
}

std::vector<TopToken> TopTokens(std::span<const float> logits, size_t count) {
  std::vector<TopToken> top;  // `probability` holds the logit at first
  if (count == 0) return top;
  float floor = -std::numeric_limits<float>::infinity();
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const size_t end = std::min(begin + kBlock, logits.size());
    if (!(Largest(logits.data() + begin, end - begin) > floor)) continue;
    for (size_t i = begin; i < end; ++i) {
      if (!(logits[i] > floor)) continue;
      if (top.size() == count) top.pop_back();
      const auto at =
          std::find_if(top.begin(), top.end(), [&](const TopToken& t) { return t.probability < logits[i]; });
      top.insert(at, {static_cast<int32_t>(i), logits[i]});
      if (top.size() == count) floor = top.back().probability;
    }
  }
  if (top.empty()) return top;
  // The top exactly; of the rest of a long row every eighth block, which is enough for a belief.
  const float highest = top.front().probability, lowest = top.back().probability;
  const size_t step = logits.size() < 32 * kBlock ? 1 : 8;
  float total = 0;
  for (size_t begin = 0; begin < logits.size(); begin += step * kBlock) {
    total += static_cast<float>(step) * SumExp(logits.subspan(begin, std::min(kBlock, logits.size() - begin)), highest,
                                               std::nextafter(lowest, highest - 100));
  }
  for (const TopToken& t : top) total += std::exp(t.probability - highest);
  for (TopToken& t : top) t.probability = std::min(1.0f, std::exp(t.probability - highest) / total);
  return top;
}

RowLogprobs LogprobsOf(ThreadPool& pool, Tensor row, int32_t token, size_t most) {
  const std::vector<TopToken> likeliest =
      TopTokens({row.f32(), static_cast<size_t>(row.columns())}, std::max<size_t>(most, 1));
  if (likeliest.empty()) {
    Fail(ErrorCode::kRuntime, "the model's logits are not finite; `cambium inspect --check` looks for NaN");
  }
  // Of the likeliest token it is minus the logarithm of the sum over all; of any other the op's own formula follows.
  float highest = 0;
  TargetLogProbs(pool, row, {&likeliest.front().token, 1}, {&highest, 1});
  const auto logprob = [&](int32_t id) {
    return TokenLogprob{id, row.f32()[id] - row.f32()[likeliest.front().token] + highest};
  };
  RowLogprobs result{logprob(token), {}};
  for (size_t i = 0; i < std::min(most, likeliest.size()); ++i) result.top.push_back(logprob(likeliest[i].token));
  return result;
}

}  // namespace cambium
