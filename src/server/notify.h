#pragma once

#include <string_view>

namespace cambium::server {

// Tells systemd ("READY=1", "STOPPING=1") where $NOTIFY_SOCKET says so; otherwise nothing happens.
void NotifySystemd(std::string_view state);

}  // namespace cambium::server
