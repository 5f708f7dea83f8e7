#include "server/routes.h"

#include "server/endpoints.h"

namespace cambium::server {
namespace {

constexpr Route kRoutes[] = {
    // clang-format off
    {"GET",  "/",                          nullptr,       Where::kPage,   Access::kFree},
    {"GET",  "/favicon.ico",               nullptr,       Where::kPage,   Access::kFree},
    {"GET",  "/page/*",                    nullptr,       Where::kPage,   Access::kFree},
    {"GET",  "/health",                    Health,        Where::kHere,   Access::kFree},
    {"GET",  "/health/",                   Health,        Where::kHere,   Access::kFree},
    {"GET",  "/ready",                     Ready,         Where::kHere,   Access::kFree},
    {"GET",  "/version",                   Version,       Where::kHere},
    {"GET",  "/props",                     Props,         Where::kHere},
    {"GET",  "/metrics",                   ShowMetrics,   Where::kHere},
    {"GET",  "/v1/models",                 ListModels,    Where::kHere},
    {"GET",  "/v1/models/*",               RetrieveModel, Where::kHere},
    {"POST", "/v1/chat/completions",       Chat,          Where::kHelper, Access::kKey, true},
    {"POST", "/v1/completions",            Completions,   Where::kHelper, Access::kKey, true},
    {"POST", "/v1/embeddings",             Embeddings,    Where::kHelper, Access::kKey, true},
    {"POST", "/v1/responses",              Responses,     Where::kHelper, Access::kKey, true},
    {"POST", "/v1/messages",               Messages,      Where::kHelper, Access::kKey, true},
    {"POST", "/v1/messages/count_tokens",  CountTokens},
    {"POST", "/tokenize",                  Tokenize},
    {"POST", "/detokenize",                Detokenize},
    {"POST", "/apply-template",            ApplyTemplate},
    {"POST", "/v1/load_lora_adapter",      LoadGraft,     Where::kHelper, Access::kAdmin},
    {"POST", "/v1/unload_lora_adapter",    UnloadGraft,   Where::kHelper, Access::kAdmin},
    {"GET",  "/v1/engine",                 ShowEngine,    Where::kHere},
    {"GET",  "/v1/training/runs",          ListRuns},
    {"POST", "/v1/training/runs",          StartRun,      Where::kHelper, Access::kAdmin},
    {"GET",  "/v1/training/runs/*",        ShowRun},
    {"DELETE", "/v1/training/runs/*",      StopRun,       Where::kHelper, Access::kAdmin},
    {"POST", "/v1/training/plan",          PlanTraining,  Where::kHelper, Access::kAdmin},
    // clang-format on
};

bool Matches(const Route& route, std::string_view path) {
  if (!route.path.ends_with('*')) return route.path == path;
  const std::string_view begin = route.path.substr(0, route.path.size() - 1);
  return path.starts_with(begin) && path.size() > begin.size();
}

}  // namespace

Match FindRoute(std::string_view method, std::string_view path) {
  if (method == "HEAD") method = "GET";
  Match match;
  for (const Route& route : kRoutes) {
    if (!Matches(route, path)) continue;
    if (!match.allowed.empty()) match.allowed += ", ";
    match.allowed += route.method == "GET" ? "GET, HEAD" : route.method;
    if (route.method == method) match.route = &route;
  }
  return match;
}

}  // namespace cambium::server
