#include "server/http_server.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <csignal>

#include "cambium/error.h"
#include "server/connection.h"

namespace cambium::server {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

constexpr auto kTick = std::chrono::milliseconds(250);
constexpr int kSendBuffer = 128 << 10;  // of the system's, so that a client that does not read is seen

// A descriptor for every connection, as far as this process may have them.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

bool IsSocket(const std::string& path) {
  struct stat status {};
  return lstat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode);
}

}  // namespace

class HttpServer::Hub {
 public:
  Hub(HttpServerOptions options, HttpHandler& handler) : options_(std::move(options)), handler_(handler) {
    RaiseDescriptorLimit();
    std::signal(SIGPIPE, SIG_IGN);
    if (options_.unix_path.empty()) {
      ListenTcp();
    } else {
      ListenUnix();
    }
    Tick();
  }
  ~Hub() {
    if (unix_.is_open()) ::unlink(options_.unix_path.c_str());
    for (const auto& connection : connections_) connection->Abandon();
  }

  int port() const { return options_.port; }
  std::string address() const {
    if (!options_.unix_path.empty()) return "unix:" + options_.unix_path;
    const bool six = options_.host.find(':') != std::string::npos;
    return "http://" + (six ? "[" + options_.host + "]" : options_.host) + ":" + std::to_string(options_.port);
  }

  void Run() { io_.run(); }
  void Stop() { io_.stop(); }
  void Post(std::function<void()> work) { asio::post(io_, std::move(work)); }

  void After(double seconds, std::function<void()> work) {
    const auto timer = std::make_shared<asio::steady_timer>(io_);
    timer->expires_after(std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds)));
    timer->async_wait([timer, work = std::move(work)](const error_code& error) {
      if (!error) work();
    });
  }

  void OnSignal(std::function<void(int)> caught) {
    caught_ = std::move(caught);
    signals_.add(SIGINT);
    signals_.add(SIGTERM);
    AwaitSignal();
  }

  size_t busy() const {
    return static_cast<size_t>(
        std::ranges::count_if(connections_, [](const auto& connection) { return connection->busy(); }));
  }

  void StopAccepting() {
    error_code ignored;
    tcp_.close(ignored);
    if (unix_.is_open()) {
      unix_.close(ignored);
      ::unlink(options_.unix_path.c_str());
    }
    for (const auto& connection : connections_) connection->LastAnswer();
    last_ = true;
  }

 private:
  void ListenTcp() {
    error_code error;
    asio::ip::tcp::resolver resolver(io_);
    const auto found =
        resolver.resolve(options_.host, std::to_string(options_.port),
                         asio::ip::tcp::resolver::passive | asio::ip::tcp::resolver::numeric_service, error);
    if (error || found.empty()) Fail(ErrorCode::kRuntime, "--host: ", options_.host, ": ", error.message());
    const asio::ip::tcp::endpoint endpoint = found.begin()->endpoint();
    tcp_.open(endpoint.protocol(), error);
    if (!error) tcp_.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) tcp_.bind(endpoint, error);
    if (!error) tcp_.listen(asio::socket_base::max_listen_connections, error);
    if (error) {
      Fail(ErrorCode::kRuntime, "cannot bind ", options_.host, ", port ", options_.port, ": ", error.message());
    }
    options_.port = tcp_.local_endpoint().port();
    Accept(tcp_);
  }

  void ListenUnix() {
    const std::string& path = options_.unix_path;
    error_code error;
    if (IsSocket(path)) {  // a server's that is gone, or another's: who answers keeps it
      asio::local::stream_protocol::socket probe(io_);
      probe.connect(asio::local::stream_protocol::endpoint(path), error);
      if (!error) Fail(ErrorCode::kRuntime, "cannot bind ", path, ": another server listens there");
      ::unlink(path.c_str());
    }
    if (path.size() >= 108) Fail(ErrorCode::kUsage, "--unix: the path has ", path.size(), " bytes, at most 107 may be");
    unix_.open(asio::local::stream_protocol(), error);
    if (!error) unix_.bind(asio::local::stream_protocol::endpoint(path), error);
    if (!error) unix_.listen(asio::socket_base::max_listen_connections, error);
    if (error) Fail(ErrorCode::kRuntime, "cannot bind ", path, ": ", error.message());
    Accept(unix_);
  }

  template <class Acceptor>
  void Accept(Acceptor& acceptor) {
    const auto socket = std::make_shared<Connection::Socket>(io_);
    acceptor.async_accept(*socket, [this, &acceptor, socket](const error_code& error) {
      if (!acceptor.is_open()) return;
      if (error) {  // no descriptor is left, or the client has gone: later there may be
        After(0.1, [this, &acceptor] {
          if (acceptor.is_open()) Accept(acceptor);
        });
        return;
      }
      Welcome(std::move(*socket));
      Accept(acceptor);
    });
  }

  void Welcome(Connection::Socket socket) {
    error_code ignored;
    if (options_.unix_path.empty()) socket.set_option(asio::ip::tcp::no_delay(true), ignored);
    socket.set_option(asio::socket_base::send_buffer_size(kSendBuffer), ignored);
    Sweep();
    const bool full = connections_.size() >= options_.connections;
    if (connections_.size() >= options_.connections + 64) return;  // not even a word
    const auto connection = std::make_shared<Connection>(options_, handler_, io_, std::move(socket));
    connections_.push_back(connection);
    if (full) {
      connection->RefuseAtOnce(503, "too many connections");
    } else {
      connection->Start();
    }
    if (last_) connection->LastAnswer();
  }

  void Sweep() {
    std::erase_if(connections_, [](const auto& connection) { return connection->closed(); });
  }

  void Tick() {
    ticker_.expires_after(kTick);
    ticker_.async_wait([this](const error_code& error) {
      if (error) return;
      const Clock::time_point now = Clock::now();
      for (const auto& connection : std::vector(connections_)) connection->Tick(now);
      Sweep();
      Tick();
    });
  }

  void AwaitSignal() {
    signals_.async_wait([this](const error_code& error, int signal) {
      if (error) return;
      caught_(signal);
      AwaitSignal();
    });
  }

  HttpServerOptions options_;
  HttpHandler& handler_;
  asio::io_context io_{1};
  asio::ip::tcp::acceptor tcp_{io_};
  asio::local::stream_protocol::acceptor unix_{io_};
  asio::signal_set signals_{io_};
  asio::steady_timer ticker_{io_};
  std::function<void(int)> caught_;
  std::vector<std::shared_ptr<Connection>> connections_;
  bool last_ = false;
};

HttpServer::HttpServer(HttpServerOptions options, HttpHandler& handler)
    : hub_(std::make_unique<Hub>(std::move(options), handler)) {}
HttpServer::~HttpServer() = default;

int HttpServer::port() const { return hub_->port(); }
std::string HttpServer::address() const { return hub_->address(); }
void HttpServer::Run() { hub_->Run(); }
void HttpServer::Stop() { hub_->Stop(); }
void HttpServer::Post(std::function<void()> work) { hub_->Post(std::move(work)); }
void HttpServer::After(double seconds, std::function<void()> work) {
  hub_->Post([this, seconds, work = std::move(work)] { hub_->After(seconds, work); });
}
size_t HttpServer::busy() const { return hub_->busy(); }
void HttpServer::OnSignal(std::function<void(int)> caught) { hub_->OnSignal(std::move(caught)); }
void HttpServer::StopAccepting() {
  hub_->Post([this] { hub_->StopAccepting(); });
}

}  // namespace cambium::server
