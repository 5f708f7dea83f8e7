#include "engine/text_stream.h"

#include <algorithm>
#include <utility>

#include "cambium/error.h"

namespace cambium {

StopFilter::StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) {
    if (stop.empty()) Fail(ErrorCode::kUsage, "a stop string is empty");
  }
}

std::string StopFilter::Push(std::string_view text) {
  held_ += text;
  size_t end = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at < end) {
      end = at;
      stop_ = &stop;
    }
  }
  if (stop_ != nullptr) return held_.substr(0, end);
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) keep = n;
    }
  }
  std::string shown = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return shown;
}

std::string StopFilter::Finish() { return done() ? std::string() : std::exchange(held_, {}); }

}  // namespace cambium
