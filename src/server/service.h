#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "cambium/cambium.h"
#include "server/engine_loop.h"
#include "server/graft_shelf.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/training_jobs.h"
#include "server/watch.h"
#include "server/work_queue.h"

namespace cambium::server {

struct ServiceOptions {
  std::string name;                   // of the base model, as requests call it
  std::vector<std::string> drafters;  // where a request does not say; empty: auto
  std::string load_from;              // the directory below which grafts may be loaded; empty: nowhere
  std::string runs;                   // that of training runs; empty: none
  bool admin = false;                 // there are keys that may load and train
  int64_t parallel = 16;              // generations under way at once
  std::string version;
  int64_t started = 0;  // seconds since 1970
};

// What every endpoint works with.
struct Service {
  Service(Engine loaded, ServiceOptions wanted)
      : options(std::move(wanted)),
        engine(std::move(loaded)),
        metrics(options.name, engine.context()),
        loop(engine, [this](const EngineStats& stats) {
          metrics.Stepped(stats);
          watch.Stepped(stats, engine);
        }) {}
  const Model& model() const { return engine.model(); }

  ServiceOptions options;
  Engine engine;
  GraftShelf grafts;
  Metrics metrics;
  Watch watch;
  EngineLoop loop;
  TrainingJobs jobs;
  WorkQueue helper;  // goes first: its work uses the rest
};

// A request on its way through an endpoint.
struct Call {
  Service& service;
  HttpRequest request;
  std::shared_ptr<Reply> reply;
};

}  // namespace cambium::server
