#include <algorithm>

#include "server/endpoints.h"
#include "server/fields.h"

namespace cambium::server {

void Health(Call& call) { call.reply->Send({200, R"({"status":"ok"})"}); }

void Ready(Call& call) { call.reply->Send({200, R"({"status":"ok"})"}); }

void Version(Call& call) { call.reply->Send({200, Dump({{"version", call.service.options.version}})}); }

void Props(Call& call) {
  const Service& service = call.service;
  const ModelInfo& info = service.info;
  call.reply->Send({200, Dump({{"model_alias", service.options.name},
                               {"model_path", info.path},
                               {"total_slots", service.options.parallel},
                               {"n_ctx", service.context},
                               {"n_ctx_train", info.context},
                               {"n_vocab", info.vocab},
                               {"threads", info.threads},
                               {"build_info", service.options.version},
                               {"is_sleeping", service.asleep()},
                               {"runs", !service.options.runs.empty()},
                               {"allow_load", !service.options.load_from.empty()},
                               {"admin", service.options.admin}})});
}

void ShowMetrics(Call& call) {
  Service& service = call.service;
  Metrics::Gauges gauges;
  gauges.engine = service.loop.stats();
  gauges.sleeping = service.asleep();
  gauges.grafts = service.grafts.List().size();
  call.reply->Send({200, service.metrics.Text(gauges), "text/plain; version=0.0.4; charset=utf-8"});
}

}  // namespace cambium::server
