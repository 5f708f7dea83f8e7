#pragma once

#include <cstdint>
#include <initializer_list>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace cambium::server {

using LogValue = std::variant<std::string, int64_t, double>;

// Lines of JSON on standard error: {"time", "event", ...}. Prompts, answers and keys never come here.
class Log {
 public:
  explicit Log(bool quiet = false) : quiet_(quiet) {}
  void Write(std::string_view event, std::initializer_list<std::pair<std::string_view, LogValue>> fields);

 private:
  bool quiet_;
  std::mutex mutex_;
};

}  // namespace cambium::server
