#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "server/http.h"
#include "server/http_parser.h"

namespace cambium::server {

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  int port = 8080;        // 0: any that is free
  std::string unix_path;  // a socket of this name instead of host and port; empty: none
  HttpLimits limits;
  size_t connections = 1024;            // at once; more are told 503
  size_t unsent = size_t{1} << 20;      // bytes of a stream that its client has not taken; more, and it is cut off
  size_t pipelined = size_t{64} << 10;  // bytes of further requests that are read while one is answered
  double head_seconds = 10;             // for a request's head, from its first byte
  double body_seconds = 20;             // for its body, and a second more for every `body_rate` bytes
  size_t body_rate = size_t{64} << 10;
  double write_seconds = 20;  // that a client may take none of what is written
  double idle_seconds = 75;   // between two requests of a connection
  double linger_seconds = 2;  // for a client to see the last answer before its connection ends
};

// What became of a request, for logs and counters.
struct Outcome {
  std::string id, method, path;
  int status = 0;  // 0: the client left before there was one
  double ms = 0;
  size_t bytes = 0;   // of the answer's body
  bool gone = false;  // the client left, or was cut off, before the end
};

// Called on the I/O thread: all of it is quick.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // With the head, before the body is read; an answer refuses the request.
  virtual std::optional<HttpResponse> Admit(const HttpRequest& head) = 0;
  virtual void Handle(HttpRequest request, std::shared_ptr<Reply> reply) = 0;
  // What the transport says to a request that it refuses itself.
  virtual HttpResponse Refusal(int status, std::string_view why) = 0;
  virtual void Ended(const Outcome& outcome) = 0;
};

// HTTP/1.1 over TCP or a Unix socket, on one thread: the one that calls Run. An idle connection costs a few kilobytes
// and no thread. Everything that a client may send, keep waiting or leave untaken is bounded.
class HttpServer {
 public:
  // Listens from here on; kRuntime naming the address where that fails. Nothing is answered before Run.
  HttpServer(HttpServerOptions options, HttpHandler& handler);
  ~HttpServer();

  int port() const;
  std::string address() const;  // "http://127.0.0.1:8080", "unix:PATH"

  void Run();  // until Stop
  // From any thread:
  void Post(std::function<void()> work);                   // on the I/O thread
  void After(double seconds, std::function<void()> work);  // there, later
  // `caught` is called there for each SIGINT and SIGTERM.
  void OnSignal(std::function<void(int signal)> caught);
  void StopAccepting();  // no new connections, and none outlives its answer
  size_t busy() const;   // connections with a request under way; on the I/O thread
  void Stop();           // ends Run; what is not sent by then is lost

  class Hub;

 private:
  std::unique_ptr<Hub> hub_;
};

}  // namespace cambium::server
