#pragma once

#include <array>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>

#include "server/http_server.h"

namespace cambium::server {

using Clock = std::chrono::steady_clock;

class Connection;

// The reply to one request of a connection. What other threads write waits here until the I/O thread takes it.
class ConnectionReply : public Reply, public std::enable_shared_from_this<ConnectionReply> {
 public:
  ConnectionReply(std::shared_ptr<Connection> connection, boost::asio::io_context& io, size_t unsent)
      : connection_(std::move(connection)), io_(io), unsent_(unsent) {}
  ~ConnectionReply() override;

  void Send(HttpResponse response) override;
  void Begin(HttpResponse head) override;
  void Write(std::string_view bytes) override;
  void End() override;
  void Ping(double seconds, std::string bytes) override;
  void WhenGone(std::function<void()> leave) override;

 private:
  friend class Connection;
  struct Waiting {
    bool has_head = false, streamed = false, ended = false;
    HttpResponse head;
    std::string bytes;
  };
  void Wake(std::unique_lock<std::mutex> lock);
  // On the I/O thread:
  Waiting Take();
  void MarkGone();

  std::shared_ptr<Connection> connection_;
  boost::asio::io_context& io_;
  const size_t unsent_;
  std::mutex mutex_;
  Waiting waiting_;
  bool posted_ = false, begun_ = false, ended_ = false, gone_ = false, flooded_ = false;
  std::function<void()> leave_;
  double ping_seconds_ = 0;
  std::string ping_;
};

// One client's connection; all of it on the I/O thread.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  using Socket = boost::asio::generic::stream_protocol::socket;
  Connection(const HttpServerOptions& options, HttpHandler& handler, boost::asio::io_context& io, Socket socket)
      : options_(options), handler_(handler), io_(io), socket_(std::move(socket)), parser_(options.limits) {}

  void Start();
  void RefuseAtOnce(int status, std::string_view why);
  void Tick(Clock::time_point now);
  void LastAnswer();  // end behind the answer under way, or now
  void Abandon();     // as the server ends
  bool closed() const { return closed_; }
  bool busy() const { return !closed_ && state_ != State::kIdle && state_ != State::kLinger; }

 private:
  friend class ConnectionReply;
  enum class State { kIdle, kHead, kBody, kAnswer, kLinger };
  void Read();
  void OnRead(const boost::system::error_code& error, size_t count);
  void Advance();
  void OnHead();
  void Dispatch();
  void Fail(int status, std::string_view why);
  void SendWhole(HttpResponse response);
  void Pull(ConnectionReply& reply);
  void WriteHead(const HttpResponse& response, bool streamed);
  void Queue(std::string_view bytes);
  void Flush();
  void OnWritten(const boost::system::error_code& error, size_t count);
  void Answered();
  void Linger();
  void Leave();
  void Close();
  void Tell(bool gone);
  void SetDeadline(double seconds);

  const HttpServerOptions& options_;
  HttpHandler& handler_;
  boost::asio::io_context& io_;
  Socket socket_;
  HttpParser parser_;
  State state_ = State::kIdle;
  std::string in_, out_, next_;  // bytes read and not parsed; being written; to be written then
  size_t written_ = 0;           // of out_
  bool reading_ = false, writing_ = false, closed_ = false;
  bool keep_ = true, last_ = false, head_only_ = false, chunked_ = false, ended_ = false;
  std::array<char, 16384> buffer_;
  std::shared_ptr<ConnectionReply> reply_;  // under way
  Outcome outcome_;
  int minor_ = 1;
  Clock::time_point began_ = Clock::now(), deadline_, write_deadline_, last_write_;
  bool has_deadline_ = false;
};

}  // namespace cambium::server
