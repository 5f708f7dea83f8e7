#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace cambium::cli {

// A bar on stderr with rate and time left, redrawn ten times a second at most; silent unless stderr is a terminal.
class ProgressBar {
 public:
  explicit ProgressBar(bool quiet);
  ~ProgressBar();  // clears the line
  // `done` of `total` bytes, or of what `rate` says how fast it goes by.
  void Update(const std::string& label, uint64_t done, uint64_t total, const std::string& rate = "");

 private:
  using Clock = std::chrono::steady_clock;
  bool shown_;
  bool drawn_ = false;
  std::string label_;
  uint64_t first_ = 0;  // done when this label began: what a resumed download had already
  Clock::time_point begin_, last_;
};

// A line of ASCII, cut where the terminal that stderr is would break it; a beginning that clears the line is not
// counted.
std::string OneLine(const std::string& line);

// "98.4 MB"
std::string HumanBytes(uint64_t bytes);

}  // namespace cambium::cli
