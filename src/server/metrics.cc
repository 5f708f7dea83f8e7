#include "server/metrics.h"

#include <fmt/format.h>

#include <algorithm>

namespace cambium::server {
namespace {

const std::vector<double> kSeconds = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                      1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
const std::vector<double> kGaps = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
                                   0.4,   0.5,    0.75,  1,    2.5,   5,    7.5,   10,  20,   40,  80};
const std::vector<double> kRequestSeconds = {0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1,   1.5, 2,   2.5, 5,    10,
                                             15,   20,   30,  40,  50,  60,  120, 240, 480, 960, 1920, 7680};
const std::vector<double> kTokens = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};
const std::vector<double> kRows = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
const std::vector<double> kSmall = {1, 2, 5, 10, 20};

std::string Escaped(std::string_view value) {
  std::string out;
  for (const char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return out;
}

}  // namespace

void Metrics::Histogram::Add(double value) {
  const auto bound = std::ranges::lower_bound(bounds, value);
  counts[static_cast<size_t>(bound - bounds.begin())]++;
  sum += value;
  ++count;
}

Metrics::Metrics(std::string model, int64_t context) : model_(std::move(model)) {
  const auto add = [&](const char* name, std::vector<double> bounds) {
    Histogram& histogram = histograms_[name];
    histogram.bounds = std::move(bounds);
    histogram.counts.assign(histogram.bounds.size() + 1, 0);
  };
  std::vector<double> tokens = kTokens;
  std::erase_if(tokens, [&](double bound) { return bound > static_cast<double>(std::max<int64_t>(context, 10)); });
  add("time_to_first_token_seconds", kSeconds);
  add("inter_token_latency_seconds", kGaps);
  for (const char* part : {"e2e_request_latency", "request_queue_time", "request_inference_time",
                           "request_prefill_time", "request_decode_time"}) {
    add((std::string(part) + "_seconds").c_str(), kRequestSeconds);
  }
  for (const char* name : {"request_prompt_tokens", "request_generation_tokens", "request_params_max_tokens"}) {
    add(name, tokens);
  }
  add("request_params_n", kSmall);
  add("request_num_preemptions", kSmall);
  add("iteration_tokens_total", kRows);
  for (const char* name : {"prompt_tokens", "generation_tokens", "spec_decode_num_drafts",
                           "spec_decode_num_draft_tokens", "spec_decode_num_accepted_tokens"}) {
    Count(name, "", 0);
  }
  Count("http_requests_client_disconnected", "", 0);
  for (const char* reason : {"stop", "length", "abort", "error", "repetition"}) {
    Count("request_success", std::string("finished_reason=\"") + reason + "\"", 0);
  }
}

void Metrics::Http(const std::string& method, const std::string& route, int status) {
  const std::lock_guard lock(mutex_);
  Count("http_requests",
        fmt::format("handler=\"{}\",method=\"{}\",status=\"{}xx\"", Escaped(route), method, status / 100));
}

void Metrics::Disconnected() {
  const std::lock_guard lock(mutex_);
  Count("http_requests_client_disconnected", "");
}

void Metrics::Stepped(const EngineStats& stats) {
  const std::lock_guard lock(mutex_);
  if (stats.steps > steps_) histograms_["iteration_tokens_total"].Add(static_cast<double>(stats.rows - rows_));
  steps_ = stats.steps;
  rows_ = stats.rows;
}

void Metrics::FirstToken(double seconds) {
  const std::lock_guard lock(mutex_);
  histograms_["time_to_first_token_seconds"].Add(seconds);
}

void Metrics::NextToken(double seconds) {
  const std::lock_guard lock(mutex_);
  histograms_["inter_token_latency_seconds"].Add(seconds);
}

void Metrics::Finished(const Ended& ended) {
  const std::lock_guard lock(mutex_);
  const Generation& generation = *ended.generation;
  const Timings& timings = generation.timings;
  const double tokens = static_cast<double>(generation.ids.size());
  const auto add = [&](const char* name, double value) { histograms_[name].Add(value); };
  Count("request_success", fmt::format("finished_reason=\"{}\"", ended.reason));
  if (ended.first_of_prompt) Count("prompt_tokens", "", static_cast<double>(ended.prompt_tokens));
  Count("generation_tokens", "", tokens);
  add("request_prompt_tokens", static_cast<double>(ended.prompt_tokens));
  add("request_generation_tokens", tokens);
  add("request_params_n", static_cast<double>(ended.n));
  add("request_num_preemptions", static_cast<double>(timings.preemptions));
  if (ended.max_tokens >= 0) add("request_params_max_tokens", static_cast<double>(ended.max_tokens));
  add("e2e_request_latency_seconds", ended.seconds);
  add("request_queue_time_seconds", timings.queue_ms / 1000);
  add("request_prefill_time_seconds", timings.prompt_ms / 1000);
  add("request_decode_time_seconds", timings.decode_ms / 1000);
  add("request_inference_time_seconds", (timings.prompt_ms + timings.decode_ms) / 1000);
  const DraftReport& draft = generation.draft;
  Count("spec_decode_num_drafts", "", static_cast<double>(draft.num_drafts));
  Count("spec_decode_num_draft_tokens", "", static_cast<double>(draft.num_draft_tokens));
  Count("spec_decode_num_accepted_tokens", "", static_cast<double>(draft.num_accepted_tokens));
  for (size_t i = 0; i < draft.num_accepted_tokens_per_pos.size(); ++i) {
    Count("spec_decode_num_accepted_tokens_per_pos", fmt::format("position=\"{}\"", i),
          static_cast<double>(draft.num_accepted_tokens_per_pos[i]));
  }
}

std::string Metrics::Text(const Gauges& gauges) const {
  const std::lock_guard lock(mutex_);
  const std::string base = fmt::format("engine=\"0\",model_name=\"{}\"", Escaped(model_));
  std::string out;
  const auto head = [&](const std::string& name, const char* type) {
    out += fmt::format("# TYPE vllm:{} {}\n", name, type);
  };
  const auto sample = [&](const std::string& name, const std::string& labels, double value) {
    out += fmt::format("vllm:{}{{{}{}{}}} {:.10g}\n", name, base, labels.empty() ? "" : ",", labels, value);
  };
  const auto gauge = [&](const char* name, double value) {
    head(name, "gauge");
    sample(name, "", value);
  };
  const EngineStats& e = gauges.engine;
  gauge("num_requests_running", static_cast<double>(e.running));
  gauge("num_requests_waiting", static_cast<double>(e.waiting));
  head("num_requests_waiting_by_reason", "gauge");
  sample("num_requests_waiting_by_reason", "reason=\"capacity\"", static_cast<double>(e.waiting));
  const double used = e.cache_pages > 0 ? static_cast<double>(e.cache_used) / static_cast<double>(e.cache_pages) : 0;
  gauge("kv_cache_usage_perc", used);
  gauge("gpu_cache_usage_perc", used);  // its former name, which routers still ask for
  gauge("engine_sleep_state", gauges.sleeping ? 1 : 0);
  head("cache_config_info", "gauge");
  sample("cache_config_info",
         fmt::format("block_size=\"16\",num_gpu_blocks=\"{}\",enable_prefix_caching=\"True\"", e.cache_pages), 1);
  head("lora_requests_info", "gauge");
  sample("lora_requests_info",
         fmt::format("max_lora=\"{}\",running_lora_adapters=\"{}\",waiting_lora_adapters=\"\"", gauges.grafts,
                     Escaped(gauges.grafts_running)),
         1);
  const auto counter = [&](const char* name, double value) {
    head(name, "counter");
    sample(std::string(name) + "_total", "", value);
  };
  counter("num_preemptions", static_cast<double>(e.preemptions));
  counter("prefix_cache_queries", static_cast<double>(e.prefix_queries));
  counter("prefix_cache_hits", static_cast<double>(e.prefix_hits));
  for (const auto& [name, values] : counters_) {
    const bool http = name.starts_with("http_");
    if (http) {
      out += fmt::format("# TYPE {} counter\n", name);
    } else {
      head(name, "counter");
    }
    for (const auto& [labels, value] : values) {
      if (http) {
        out += fmt::format("{}_total{{{}}} {:.10g}\n", name, labels, value);
      } else {
        sample(name + "_total", labels, value);
      }
    }
  }
  for (const auto& [name, histogram] : histograms_) {
    head(name, "histogram");
    int64_t below = 0;
    for (size_t i = 0; i < histogram.bounds.size(); ++i) {
      below += histogram.counts[i];
      sample(name + "_bucket", fmt::format("le=\"{:.10g}\"", histogram.bounds[i]), static_cast<double>(below));
    }
    sample(name + "_bucket", "le=\"+Inf\"", static_cast<double>(histogram.count));
    sample(name + "_count", "", static_cast<double>(histogram.count));
    sample(name + "_sum", "", histogram.sum);
  }
  return out;
}

}  // namespace cambium::server
