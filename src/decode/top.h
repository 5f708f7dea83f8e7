#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cambium {

// First index of the largest value; NaN never wins. -1 if nothing is above -inf.
int64_t ArgMax(std::span<const float> values);

struct TopToken {
  int32_t token;
  float probability;  // softmax over the row, estimated
};
// The `count` likeliest tokens of a row of logits, highest first, equal ones by id; fewer where fewer are finite.
std::vector<TopToken> TopTokens(std::span<const float> logits, size_t count);

}  // namespace cambium
