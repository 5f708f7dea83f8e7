#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cambium/cambium.h"
#include "server/gate.h"
#include "server/http_server.h"
#include "server/service.h"

namespace cambium::server {

struct ServerOptions {
  HttpServerOptions http;
  GateOptions gate;
  ServiceOptions service;
  std::vector<std::string> grafts;  // NAME=PATH or NAME=PATH=SCALE; PATH alone is called by its last part
  int64_t queue = 256;              // generations that may wait; more are told 429
  double drain_delay = 0;           // seconds that new requests are still taken after SIGTERM
  double drain_timeout = 60;        // seconds that those under way may take then
  double sleep_idle = 0;            // seconds without a request until the model is let go of; 0: never
  bool quiet = false;               // no log
};

// Listens at once, loads by `load`, and serves until SIGTERM or SIGINT; the second of these ends what is under way.
// `listening` is told the address.
void Serve(const ServerOptions& options, const std::function<Engine()>& load,
           const std::function<void(const std::string& address)>& listening);

}  // namespace cambium::server
