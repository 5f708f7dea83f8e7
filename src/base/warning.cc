#include "cambium/warning.h"

#include <mutex>
#include <utility>

namespace cambium {
namespace {

std::mutex mutex;
WarningHandler& Handler() {
  static WarningHandler handler;
  return handler;
}

}  // namespace

void SetWarningHandler(WarningHandler handler) {
  const std::lock_guard lock(mutex);
  Handler() = std::move(handler);
}

void SendWarning(const std::string& text) {
  const std::lock_guard lock(mutex);
  if (Handler()) Handler()(text);
}

}  // namespace cambium
