#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/pretokenizer.h"

namespace cambium {

// One compiled SplitStep. Matching is bounded in backtracking, memory and wall time, so a hostile pattern ends in an
// error (kData) and not in a hang.
class SplitRegex {
 public:
  explicit SplitRegex(const SplitStep& step);
  ~SplitRegex();
  SplitRegex(const SplitRegex&) = delete;
  SplitRegex& operator=(const SplitRegex&) = delete;

  // Cuts each piece of `text` on its own: lookahead ends where the piece does.
  void Cut(std::string_view text, const std::vector<Span>& pieces, std::vector<Span>& out) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
  std::string pattern_;
  bool drop_gaps_;
};

}  // namespace cambium
