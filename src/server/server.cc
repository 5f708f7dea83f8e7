#include "server/server.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <thread>

#include "grafts/grafts.h"
#include "server/log.h"
#include "server/notify.h"
#include "server/page.h"

namespace cambium::server {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kDrainPoll = 0.02, kLastWords = 2;  // seconds

class Server : public HttpHandler {
 public:
  Server(const ServerOptions& options, const std::function<void(const std::string&)>& listening)
      : options_(options), gate_(options.gate), log_(options.quiet), http_(options.http, *this) {
    listening(http_.address());
    http_.OnSignal([this](int signal) { OnSignal(signal); });
    io_ = std::thread([this] { http_.Run(); });
  }
  ~Server() override {
    http_.Stop();
    io_.join();
    service_ = nullptr;
    owned_.reset();  // before the connections that its answers go to
  }

  void Run(const std::function<Engine()>& load);

  std::optional<HttpResponse> Admit(const HttpRequest& head) override;
  void Handle(HttpRequest request, std::shared_ptr<Reply> reply) override;
  HttpResponse Refusal(int status, std::string_view why) override {
    return ToResponse({status, std::string(why), "", ""});
  }
  void Ended(const Outcome& outcome) override;

 private:
  void LoadGrafts(Service& service) const;
  void Answer(const Route& route, Call call);
  void OnSignal(int signal);
  void Drain();
  void AwaitEnd(double seconds);
  void SleepWhenIdle();
  bool Quiet() const;

  const ServerOptions& options_;
  const Gate gate_;
  Log log_;
  std::unique_ptr<Service> owned_;
  std::atomic<Service*> service_ = nullptr;  // null while it loads
  std::atomic<int64_t> intake_ = 0;          // requests that the helper has not finished with
  Clock::time_point used_;                   // on the I/O thread: when the model last was
  std::atomic<bool> draining_ = false, refusing_ = false, stop_ = false;
  int signals_ = 0;
  HttpServer http_;
  std::thread io_;
};

void Server::Run(const std::function<Engine()>& load) {
  ServiceOptions service_options = options_.service;
  auto service = std::make_unique<Service>(load, service_options);
  LoadGrafts(*service);
  owned_ = std::move(service);
  service_ = owned_.get();
  if (stop_) return;
  log_.Write("ready", {{"address", http_.address()}, {"model", owned_->options.name}});
  NotifySystemd("READY=1");
  if (options_.sleep_idle > 0) http_.After(0, [this] { SleepWhenIdle(); });
  owned_->loop.Run();
}

void Server::LoadGrafts(Service& service) const {
  for (const std::string& given : options_.grafts) {
    const size_t equals = given.find('=');
    const GraftSpec spec = ParseGraftSpec(equals == given.npos ? given : given.substr(equals + 1));
    const std::filesystem::path path(spec.path);
    const std::string last = (path.has_filename() ? path : path.parent_path()).filename().string();
    const std::string name = equals == given.npos ? last : given.substr(0, equals);
    if (name.empty()) Fail(ErrorCode::kUsage, "--graft: ", given, " has no name");
    if (name == service.options.name) Fail(ErrorCode::kUsage, "--graft: ", name, " is the model's own name");
    if (!service.grafts.Load(service.model(), name, spec.path, spec.scale, false)) {
      Fail(ErrorCode::kUsage, "--graft: ", name, " is given twice");
    }
  }
}

std::optional<HttpResponse> Server::Admit(const HttpRequest& head) {
  if (gate_.IsPreflight(head)) {
    HttpResponse allowed{204, ""};
    allowed.headers = {{"Access-Control-Allow-Origin", gate_.AllowedOrigin(head)},
                       {"Access-Control-Allow-Methods", "GET, POST, DELETE"},
                       {"Access-Control-Allow-Headers", "authorization, content-type, x-api-key, x-request-id"},
                       {"Access-Control-Max-Age", "600"},
                       {"Vary", "Origin"}};
    return allowed;
  }
  const Match match = FindRoute(head.method, head.path);
  const Access access = match.route != nullptr ? match.route->access : Access::kKey;
  if (const auto error = gate_.Check(head, access)) return ToResponse(*error);
  if (match.route == nullptr) {
    const std::string shown = head.path.substr(0, 100);
    if (match.allowed.empty()) return ToResponse({404, "there is no " + shown + " here", "", "not_found"});
    HttpResponse response =
        ToResponse({405, head.method + " is not what " + shown + " takes", "", "method_not_allowed"});
    response.headers.emplace_back("Allow", match.allowed);
    return response;
  }
  if (match.route->where == Where::kPage) return std::nullopt;
  if (service_ == nullptr) return ToResponse({503, "Loading model", "", ""});
  if (refusing_ && access != Access::kFree) return ToResponse({503, "the server shuts down", "", ""});
  if (draining_ && match.route->path == "/ready") return ToResponse({503, "the server shuts down", "", ""});
  const std::string* const encoding = head.Header("content-encoding");
  if (encoding != nullptr && !EqualNoCase(*encoding, "identity")) {
    return ToResponse({415, "a Content-Encoding is not supported", "", ""});
  }
  const std::string* const type = head.Header("content-type");
  if (match.route->method == "POST" && type != nullptr &&
      !EqualNoCase(type->substr(0, type->find_first_of("; ")), "application/json")) {
    return ToResponse({415, "the Content-Type is not application/json", "", ""});
  }
  return std::nullopt;
}

// Adds what a page of an allowed origin needs to every answer.
class ForOrigin : public Reply {
 public:
  ForOrigin(std::shared_ptr<Reply> inner, std::string origin) : inner_(std::move(inner)), origin_(std::move(origin)) {}
  void Send(HttpResponse response) override { inner_->Send(Allowed(std::move(response))); }
  void Begin(HttpResponse head) override { inner_->Begin(Allowed(std::move(head))); }
  void Write(std::string_view bytes) override { inner_->Write(bytes); }
  void End() override { inner_->End(); }
  void Ping(double seconds, std::string bytes) override { inner_->Ping(seconds, std::move(bytes)); }
  void WhenGone(std::function<void()> leave) override { inner_->WhenGone(std::move(leave)); }

 private:
  HttpResponse Allowed(HttpResponse response) const {
    response.headers.emplace_back("Access-Control-Allow-Origin", origin_);
    response.headers.emplace_back("Vary", "Origin");
    return response;
  }
  std::shared_ptr<Reply> inner_;
  std::string origin_;
};

void Server::Handle(HttpRequest request, std::shared_ptr<Reply> reply) {
  const Route& route = *FindRoute(request.method, request.path).route;
  if (route.where == Where::kPage) {
    reply->Send(AnswerPage(request));
    return;
  }
  Service& service = *service_;
  const std::string origin = gate_.AllowedOrigin(request);
  if (!origin.empty()) reply = std::make_shared<ForOrigin>(std::move(reply), origin);
  Call call{service, std::move(request), std::move(reply)};
  if (route.where == Where::kHere) {
    Answer(route, std::move(call));
    return;
  }
  if (route.queued && service.loop.open() + intake_ >= service.options.parallel + options_.queue) {
    call.reply->Send(ToResponse({429, fmt::format("{} requests wait already", options_.queue), "", "queue_full"}));
    return;
  }
  ++intake_;
  used_ = Clock::now();
  const auto gone = std::make_shared<std::atomic<bool>>(false);
  call.reply->WhenGone([gone] { *gone = true; });
  service.helper.Post([this, &route, call = std::move(call), gone]() mutable {
    if (!*gone) Answer(route, std::move(call));
    --intake_;
  });
}

void Server::Answer(const Route& route, Call call) {
  try {
    if (route.where == Where::kHelper && call.service.asleep()) {
      call.service.Wake();
      log_.Write("awake", {});
    }
    route.answer(call);
  } catch (...) {
    call.reply->Send(ToResponse(ToApiError(std::current_exception())));
  }
}

void Server::Ended(const Outcome& outcome) {
  const Match match = FindRoute(outcome.method, outcome.path);
  const std::string route(match.route == nullptr ? "none" : match.route->path);
  const bool probe = match.route != nullptr && match.route->access == Access::kFree;
  if (Service* const service = service_) {
    const bool known = !match.allowed.empty() || outcome.method == "GET" || outcome.method == "POST";
    service->metrics.Http(known ? outcome.method : "other", route, outcome.status);
    if (outcome.gone) service->metrics.Disconnected();
  }
  if (probe) return;
  log_.Write("request", {{"id", outcome.id},
                         {"method", outcome.method},
                         {"path", outcome.path.substr(0, 200)},
                         {"status", int64_t{outcome.status}},
                         {"ms", std::round(outcome.ms * 10) / 10},
                         {"bytes", static_cast<int64_t>(outcome.bytes)},
                         {"left", std::string(outcome.gone ? "yes" : "no")}});
}

// On the I/O thread, now and then.
void Server::SleepWhenIdle() {
  const Clock::time_point now = Clock::now();
  if (intake_ > 0 || owned_->loop.open() > 0 || used_ == Clock::time_point()) used_ = now;
  const double idle = std::chrono::duration<double>(now - used_).count();
  if (idle >= options_.sleep_idle && !owned_->asleep() && !refusing_) {
    owned_->helper.Post([this] {
      if (owned_->Sleep()) log_.Write("asleep", {});
    });
  }
  http_.After(std::clamp(options_.sleep_idle / 4, 0.05, 1.0), [this] { SleepWhenIdle(); });
}

// -- the end
// -----------------------------------------------------------------------------------------------------------

void Server::OnSignal(int signal) {
  log_.Write("signal", {{"number", int64_t{signal}}});
  if (service_ == nullptr || ++signals_ > 1) {
    stop_ = true;
    refusing_ = true;
    http_.StopAccepting();
    if (Service* const service = service_) service->loop.CancelAll();
    AwaitEnd(kLastWords);
    return;
  }
  draining_ = true;
  NotifySystemd("STOPPING=1");
  http_.After(options_.drain_delay, [this] { Drain(); });
}

void Server::Drain() {
  refusing_ = true;
  http_.StopAccepting();
  AwaitEnd(options_.drain_timeout);
}

bool Server::Quiet() const { return intake_ == 0 && owned_->loop.open() == 0 && http_.busy() == 0; }

// On the I/O thread: ends when nothing is under way, or by force after so many seconds.
void Server::AwaitEnd(double seconds) {
  if (service_ == nullptr) return;  // Run sees stop_
  if (Quiet() || stop_) {
    if (Quiet() || seconds <= 0) {
      owned_->loop.Stop();
      return;
    }
  } else if (seconds <= 0) {
    stop_ = true;
    owned_->loop.CancelAll();
    seconds = kLastWords;
  }
  http_.After(kDrainPoll, [this, seconds] { AwaitEnd(seconds - kDrainPoll); });
}

}  // namespace

void Serve(const ServerOptions& options, const std::function<Engine()>& load,
           const std::function<void(const std::string&)>& listening) {
  Server server(options, listening);
  server.Run(load);
}

}  // namespace cambium::server
