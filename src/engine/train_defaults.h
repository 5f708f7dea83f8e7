#pragma once

#include <cstdint>
#include <string>

namespace cambium {

// What is not given (docs/notes/training-defaults.md has the study that these come from).

// hidden: the model's width.
float DefaultLearningRate(const std::string& graft, int64_t hidden);

constexpr int64_t kEnoughSteps = 100;  // fewer teach little, whatever the data
// Times through data of so many steps an epoch.
double DefaultEpochs(int64_t steps);

}  // namespace cambium
