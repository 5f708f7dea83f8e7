#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cambium/cambium.h"

namespace cambium {

// What an answer must be, token by token. `text` is the prompt and the answer so far; texts may come in any order, and
// one that goes on where the last ended is the cheapest.
class TokenConstraint : public LogitsFilter {
 public:
  // Nothing follows a text that is none of the constraint's, such as one behind its end.
  virtual bool Allows(std::span<const int32_t> text, int32_t token) = 0;
  // The tokens that may follow, the longest first, where all are beginnings of it: the ways to write what is forced.
  // Empty where nothing is.
  virtual std::vector<int32_t> Forced(std::span<const int32_t> text) = 0;
};

}  // namespace cambium
