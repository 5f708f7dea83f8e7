#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "cambium/cambium.h"

namespace cambium::server {

// What Prometheus reads at /metrics, under the names of vLLM. Safe from any thread.
class Metrics {
 public:
  Metrics(std::string model, int64_t context);

  void Http(const std::string& method, const std::string& route, int status);
  void Disconnected();
  void Stepped(const EngineStats& stats);

  // Of a generation: its first token after so many seconds, each further one after the one before, and its end.
  void FirstToken(double seconds);
  void NextToken(double seconds);
  struct Ended {
    std::string_view reason;      // stop, length, abort, error
    int64_t prompt_tokens = 0;    // of its prompt
    bool first_of_prompt = true;  // of the generations that share one
    int64_t max_tokens = -1, n = 1;
    double seconds = 0;  // since the request came
    const Generation* generation = nullptr;
  };
  void Finished(const Ended& ended);

  struct Gauges {
    EngineStats engine;
    bool sleeping = false;
    std::string grafts_running;  // names, separated by commas
    size_t grafts = 0;
  };
  std::string Text(const Gauges& gauges) const;

 private:
  struct Histogram {
    std::vector<double> bounds;
    std::vector<int64_t> counts;  // one more than bounds
    double sum = 0;
    int64_t count = 0;
    void Add(double value);
  };
  using Labels = std::string;  // `a="x",b="y"`
  void Count(const char* name, const Labels& labels, double by = 1) { counters_[name][labels] += by; }

  std::string model_;
  mutable std::mutex mutex_;
  std::map<std::string, std::map<Labels, double>> counters_;
  std::map<std::string, Histogram> histograms_;
  int64_t steps_ = 0, rows_ = 0;
};

}  // namespace cambium::server
