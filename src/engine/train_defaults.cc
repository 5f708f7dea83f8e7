#include "engine/train_defaults.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace cambium {

float DefaultLearningRate(const std::string& graft, int64_t hidden) {
  // The best of those tried on a model of 576 columns.
  constexpr double kWidth = 576;
  static constexpr std::pair<const char*, double> kRates[] = {{"lora", 2e-3},   {"adapter", 2e-3}, {"prefix", 5e-2},
                                                              {"prompt", 1e-1}, {"ia3", 5e-2},     {"vera", 5e-2},
                                                              {"full", 1e-4}};
  const auto found = std::ranges::find(kRates, graft, &std::pair<const char*, double>::first);
  const double rate = found == std::end(kRates) ? kRates[0].second : found->second;
  // Wider models want smaller steps; rounded to two digits, so that it reads well.
  const double scaled = rate * std::sqrt(kWidth / static_cast<double>(hidden));
  const double digit = std::pow(10, std::floor(std::log10(scaled)) - 1);
  return static_cast<float>(std::round(std::min(rate, scaled) / digit) * digit);
}

double DefaultEpochs(int64_t steps) {
  constexpr int64_t kLeast = 3, kMost = 20;
  return static_cast<double>(std::clamp((kEnoughSteps + steps - 1) / std::max<int64_t>(steps, 1), kLeast, kMost));
}

}  // namespace cambium
