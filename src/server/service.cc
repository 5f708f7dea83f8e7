#include "server/service.h"

#include <malloc.h>

#include <optional>

namespace cambium::server {

bool Service::Sleep() {
  if (asleep_ || !loop.resting()) return false;
  asleep_ = true;
  grafts.Unload();
  std::optional<Engine> gone = std::move(engine);
  gone.reset();
  malloc_trim(0);
  return true;
}

void Service::Wake() {
  Engine awake = load();
  grafts.Reload(awake.model());
  engine = std::move(awake);
  asleep_ = false;
}

}  // namespace cambium::server
