#include "cli/progress.h"

#include <fmt/format.h>

#include "cli/options.h"
#include "cli/word_wrap.h"

namespace cambium::cli {

ProgressBar::ProgressBar(bool quiet) : shown_(!quiet && IsTerminal(stderr)) {}

ProgressBar::~ProgressBar() {
  if (drawn_) fmt::print(stderr, "\r\033[K");
}

void ProgressBar::Update(const std::string& label, uint64_t done, uint64_t total, const std::string& said) {
  if (!shown_ || total == 0) return;
  const auto now = Clock::now();
  if (label != label_) label_ = label, first_ = done, begin_ = now, last_ = {};
  if (done < total && now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  const double seconds = std::chrono::duration<double>(now - begin_).count();
  const double rate = seconds > 0 ? static_cast<double>(done - first_) / seconds : 0;
  const int columns = TerminalColumns(fileno(stderr));
  const uint64_t width = columns > 0 && columns < 80 ? 10 : 24;
  const auto filled = static_cast<size_t>(static_cast<double>(done) / static_cast<double>(total) * width);
  std::string line = fmt::format("\r\033[K{} [{:<{}}] {:3.0f} %  {}", label, std::string(filled, '#'), width,
                                 100.0 * static_cast<double>(done) / static_cast<double>(total),
                                 said.empty() ? HumanBytes(static_cast<uint64_t>(rate)) + "/s" : said);
  if (rate > 0) {
    const auto left = static_cast<uint64_t>(static_cast<double>(total - done) / rate);
    line += fmt::format("  {}:{:02} left", left / 60, left % 60);
  }
  fmt::print(stderr, "{}", OneLine(line));
  std::fflush(stderr);
  drawn_ = true;
}

std::string OneLine(const std::string& line) {
  const int columns = TerminalColumns(fileno(stderr));
  constexpr std::string_view kRedraw = "\r\033[K";
  const size_t begin = line.starts_with(kRedraw) ? kRedraw.size() : 0;
  return columns > 0 ? line.substr(0, begin + static_cast<size_t>(columns) - 1) : line;
}

std::string HumanBytes(uint64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  const char* const units[] = {"kB", "MB", "GB", "TB"};
  auto value = static_cast<double>(bytes);
  int unit = -1;
  for (; value >= 1000 && unit < 3; ++unit) value /= 1000;
  return fmt::format("{:.1f} {}", value, units[unit]);
}

}  // namespace cambium::cli
