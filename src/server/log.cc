#include "server/log.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <ctime>

#include "server/fields.h"

namespace cambium::server {
namespace {

std::string Now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const std::time_t seconds = std::chrono::duration_cast<std::chrono::seconds>(now).count();
  const auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(now).count() % 1000;
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
  return fmt::format("{}.{:03}Z", text, millis);
}

}  // namespace

void Log::Write(std::string_view event, std::initializer_list<std::pair<std::string_view, LogValue>> fields) {
  if (quiet_) return;
  Json line = {{"time", Now()}, {"event", event}};
  for (const auto& field : fields) {
    std::visit([&](const auto& value) { line[std::string(field.first)] = value; }, field.second);
  }
  const std::string text = Dump(line) + "\n";
  const std::lock_guard lock(mutex_);
  if (::write(STDERR_FILENO, text.data(), text.size()) < 0) return;  // nobody reads it
}

}  // namespace cambium::server
