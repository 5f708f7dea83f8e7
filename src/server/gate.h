#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_error.h"
#include "server/routes.h"

namespace cambium::server {

struct GateOptions {
  std::vector<std::string> keys, admin_keys;  // none: nobody is asked for one, and admin routes are closed
  bool loopback = true;                       // listens where only this machine can reach it
  std::vector<std::string> hosts;             // further names that requests may call this server by; "*": any
  std::vector<std::string> origins;           // web pages that may read answers; "*": any
};

// Who may ask: by Host (a page that rebinds a name to 127.0.0.1 shows its own), by Origin (a foreign page's request),
// by key (compared in constant time).
class Gate {
 public:
  explicit Gate(GateOptions options);
  std::optional<ApiError> Check(const HttpRequest& head, Access access) const;
  // Whether the request is a browser's question before another, and from whom it may come.
  bool IsPreflight(const HttpRequest& head) const;
  // The Origin of the request where its page may read the answer; empty: nobody's.
  std::string AllowedOrigin(const HttpRequest& head) const;

 private:
  bool HostIsOurs(std::string_view host) const;
  bool Knows(const std::vector<std::string>& digests, const HttpRequest& head) const;

  GateOptions options_;
  std::vector<std::string> keys_, admin_keys_;  // their SHA-256
};

}  // namespace cambium::server
