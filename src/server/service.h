#pragma once

#include <atomic>
#include <functional>
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

// What every endpoint works with. Those that run on the helper find the engine loaded; the others look at `info` and
// `context` alone, since it may be asleep.
struct Service {
  Service(std::function<Engine()> loader, ServiceOptions wanted)
      : options(std::move(wanted)),
        load(std::move(loader)),
        engine(load()),
        info(engine.model().info()),
        context(engine.context()),
        metrics(options.name, context),
        loop(engine, [this](const EngineStats& stats) {
          metrics.Stepped(stats);
          watch.Stepped(stats, engine);
        }) {}
  const Model& model() const { return engine.model(); }

  // On the helper: lets go of the model and the grafts unless a request is under way, and loads them again.
  bool asleep() const { return asleep_; }
  bool Sleep();
  void Wake();

  ServiceOptions options;
  const std::function<Engine()> load;
  Engine engine;
  const ModelInfo info;
  const int64_t context;
  GraftShelf grafts;
  Metrics metrics;
  Watch watch;
  EngineLoop loop;
  TrainingJobs jobs;

 private:
  std::atomic<bool> asleep_ = false;

 public:
  WorkQueue helper;  // goes first: its work uses the rest
};

// A request on its way through an endpoint.
struct Call {
  Service& service;
  HttpRequest request;
  std::shared_ptr<Reply> reply;
};

}  // namespace cambium::server
