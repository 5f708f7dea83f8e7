#include <chrono>

#include "server/endpoints.h"
#include "server/fields.h"

namespace cambium::server {
namespace {

Json StreamsJson(const Watch& watch) {
  const auto now = Watch::Clock::now();
  Json list = Json::array();
  for (const Watch::Stream& stream : watch.Streams()) {
    list.push_back({{"id", stream.id},
                    {"model", stream.model},
                    {"prompt_tokens", stream.prompt_tokens},
                    {"max_tokens", stream.max_tokens},
                    {"tokens", stream.tokens},
                    {"drafted_tokens", stream.drafted},
                    {"seconds", std::chrono::duration<double>(now - stream.arrived).count()}});
  }
  return list;
}

Json PassesJson(const Watch& watch, int64_t after) {
  Json list = Json::array();
  for (const Watch::Pass& pass : watch.Passes(after)) {
    list.push_back({{"number", pass.number},
                    {"rows", pass.rows},
                    {"prompt_rows", pass.prompt_rows},
                    {"running", pass.running},
                    {"ms", pass.ms}});
  }
  return list;
}

Json DraftsJson(const Watch& watch) {
  const Watch::Drafts drafts = watch.DraftsSoFar();
  Json drafters = Json::array();
  for (const auto& [name, by] : drafts.drafters) {
    drafters.push_back({{"name", name}, {"drafted", by.drafted}, {"accepted", by.accepted}});
  }
  Json costs = Json::array();
  for (const PassCost& cost : watch.Costs()) costs.push_back({{"rows", cost.rows}, {"ms", cost.ms}});
  return {{"passes", drafts.passes},
          {"tokens", drafts.tokens},
          {"speedup", drafts.spent_ms > 0 ? Json(drafts.plain_ms / drafts.spent_ms) : Json()},
          {"drafters", std::move(drafters)},
          {"pass_costs", std::move(costs)}};
}

}  // namespace

void ShowEngine(Call& call) {
  Service& service = call.service;
  const int64_t after = QueryNumber(call.request.query, "after").value_or(0);
  const EngineStats stats = service.loop.stats();
  call.reply->Send({200, Dump({{"running", stats.running},
                               {"waiting", stats.waiting},
                               {"places", service.options.parallel},
                               {"steps", stats.steps},
                               {"rows", stats.rows},
                               {"prompt_rows", stats.prompt_rows},
                               {"preemptions", stats.preemptions},
                               {"cache",
                                {{"pages", stats.cache_pages},
                                 {"used", stats.cache_used},
                                 {"shared", stats.cache_shared},
                                 {"remembered", stats.cache_remembered},
                                 {"evicted", stats.cache_evicted}}},
                               {"prefix", {{"queries", stats.prefix_queries}, {"hits", stats.prefix_hits}}},
                               {"streams", StreamsJson(service.watch)},
                               {"passes", PassesJson(service.watch, after)},
                               {"drafts", DraftsJson(service.watch)}})});
}

}  // namespace cambium::server
