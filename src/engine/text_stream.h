#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cambium {

// Holds text back while it may be the beginning of a stop string, and ends it at the first stop string.
class StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stops);  // kUsage for an empty one

  // What may be shown after `text` came.
  std::string Push(std::string_view text);
  // What was held back when the text ends otherwise.
  std::string Finish();
  bool done() const { return stop_ != nullptr; }
  const std::string& stop() const { return *stop_; }  // that ended the text

 private:
  std::vector<std::string> stops_;
  std::string held_;
  const std::string* stop_ = nullptr;
};

}  // namespace cambium
