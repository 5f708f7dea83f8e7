#include "server/connection.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <ctime>

#include "server/ids.h"

namespace cambium::server {
namespace {

using boost::system::error_code;

Clock::duration Seconds(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

std::string HttpDate() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[40];
  return {text, std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &utc)};
}

// The caller's own, if it may stand in a header and a log; otherwise a new one.
std::string RequestIdOf(const HttpRequest& request) {
  const std::string* const given = request.Header("x-request-id");
  const auto plain = [](char c) { return c > 0x20 && c < 0x7f && c != '"' && c != '\\'; };
  const bool good = given != nullptr && !given->empty() && given->size() <= 128 &&
                    std::find_if_not(given->begin(), given->end(), plain) == given->end();
  return good ? *given : NewUuid();
}

}  // namespace

void Connection::Start() {
  SetDeadline(options_.head_seconds);
  Read();
}

void Connection::RefuseAtOnce(int status, std::string_view why) {
  Read();
  Fail(status, why);
}

void Connection::SetDeadline(double seconds) {
  has_deadline_ = seconds > 0;
  deadline_ = Clock::now() + Seconds(seconds);
}

void Connection::Tick(Clock::time_point now) {
  if (closed_) return;
  if (writing_ && now > write_deadline_) {
    Leave();
    return;
  }
  if (has_deadline_ && now > deadline_) {
    if (state_ == State::kHead || state_ == State::kBody) {
      Fail(408, "the request did not arrive in time");
    } else if (!writing_) {
      Leave();
    }
    return;
  }
  if (state_ != State::kAnswer || !chunked_ || writing_ || reply_ == nullptr) return;
  std::string ping;
  {
    const std::lock_guard lock(reply_->mutex_);
    if (reply_->ping_seconds_ > 0 && now - last_write_ >= Seconds(reply_->ping_seconds_)) ping = reply_->ping_;
  }
  if (!ping.empty()) Queue(ping);
  Flush();
}

void Connection::LastAnswer() {
  last_ = true;
  if (state_ == State::kIdle) Leave();
}

void Connection::Read() {
  if (reading_ || closed_) return;
  reading_ = true;
  socket_.async_read_some(
      boost::asio::buffer(buffer_),
      [self = shared_from_this()](const error_code& error, size_t count) { self->OnRead(error, count); });
}

void Connection::OnRead(const error_code& error, size_t count) {
  reading_ = false;
  if (closed_) return;
  if (error) {  // also where only their half is shut: who does that has left
    if (state_ == State::kAnswer && reply_ == nullptr && writing_) return;  // the answer is whole and on its way
    Leave();
    return;
  }
  if (state_ == State::kLinger) {
    Read();
    return;
  }
  in_.append(buffer_.data(), count);
  if (state_ == State::kBody) {
    deadline_ += Seconds(static_cast<double>(count) / static_cast<double>(options_.body_rate));
  }
  Advance();
  // While an answer is made, reading goes on: that is how a client's leaving is seen.
  if (state_ != State::kAnswer || in_.size() < options_.pipelined) Read();
}

void Connection::Advance() {
  try {
    while (!closed_ && state_ <= State::kBody && !in_.empty()) {
      if (state_ == State::kIdle) {
        state_ = State::kHead;
        began_ = Clock::now();
        SetDeadline(options_.head_seconds);
      }
      const size_t taken = parser_.Feed(in_);
      in_.erase(0, taken);
      if (state_ == State::kHead && !parser_.head_done()) continue;
      if (state_ == State::kHead) OnHead();
      if (state_ == State::kBody && parser_.done()) Dispatch();
    }
  } catch (const HttpError& error) {
    Fail(error.status, error.why);
  }
}

void Connection::OnHead() {
  state_ = State::kBody;
  SetDeadline(options_.body_seconds);
  HttpRequest& request = parser_.request();
  request.id = RequestIdOf(request);
  outcome_ = {request.id, request.method, request.path};
  minor_ = request.minor;
  head_only_ = request.method == "HEAD";
  keep_ = minor_ == 1 ? !request.HasToken("connection", "close") : request.HasToken("connection", "keep-alive");
  std::optional<HttpResponse> refusal = handler_.Admit(request);
  const std::string* const expect = request.Header("expect");
  if (!refusal && expect != nullptr && !EqualNoCase(*expect, "100-continue")) {
    refusal = handler_.Refusal(417, "the expectation is not 100-continue");
  }
  if (refusal) {
    if (!parser_.done()) refusal->close = true;  // nobody reads the body
    SendWhole(std::move(*refusal));
  } else if (expect != nullptr && !parser_.done() && minor_ == 1) {
    Queue("HTTP/1.1 100 Continue\r\n\r\n");
    Flush();
  }
}

void Connection::Dispatch() {
  state_ = State::kAnswer;
  has_deadline_ = false;
  ended_ = chunked_ = false;
  reply_ = std::make_shared<ConnectionReply>(shared_from_this(), io_, options_.unsent);
  HttpRequest request = std::move(parser_.request());
  parser_ = HttpParser(options_.limits);
  handler_.Handle(std::move(request), reply_);
}

void Connection::Fail(int status, std::string_view why) {
  if (outcome_.id.empty()) outcome_.id = NewUuid();
  HttpResponse response = handler_.Refusal(status, why);
  response.close = true;
  SendWhole(std::move(response));
}

void Connection::SendWhole(HttpResponse response) {
  state_ = State::kAnswer;
  has_deadline_ = false;
  parser_ = HttpParser(options_.limits);
  ended_ = true;
  WriteHead(response, false);
  Flush();
}

void Connection::Pull(ConnectionReply& reply) {
  if (closed_ || reply_.get() != &reply) return;
  ConnectionReply::Waiting waiting = reply.Take();
  if (waiting.has_head) WriteHead(waiting.head, waiting.streamed);
  if (!waiting.bytes.empty()) Queue(waiting.bytes);
  if (waiting.ended && chunked_ && minor_ == 1) next_ += "0\r\n\r\n";
  ended_ = waiting.ended;
  if (ended_) reply_.reset();
  if (!ended_ && chunked_ && next_.size() + out_.size() - written_ > options_.unsent) {
    Leave();
    return;
  }
  Flush();
}

void Connection::WriteHead(const HttpResponse& response, bool streamed) {
  chunked_ = streamed && !head_only_;
  keep_ = keep_ && !response.close && !last_ && !(streamed && minor_ == 0);
  outcome_.status = response.status;
  const bool bodiless = response.status == 204 || response.status == 304;
  std::string& out = next_;
  out += "HTTP/1.1 " + std::to_string(response.status) + " ";
  out += ReasonPhrase(response.status);
  out += "\r\nDate: " + HttpDate();
  if (!bodiless) out += "\r\nContent-Type: " + response.type;
  if (streamed && minor_ == 1) out += "\r\nTransfer-Encoding: chunked";
  if (!streamed && !bodiless) out += "\r\nContent-Length: " + std::to_string(response.body.size());
  out += "\r\nX-Request-Id: " + outcome_.id;
  for (const auto& [name, value] : response.headers) out += "\r\n" + name + ": " + value;
  out += keep_ ? "\r\nConnection: keep-alive\r\n\r\n" : "\r\nConnection: close\r\n\r\n";
  if (streamed || bodiless || head_only_) return;
  out += response.body;
  outcome_.bytes += response.body.size();
}

// A piece of the body.
void Connection::Queue(std::string_view bytes) {
  if (state_ == State::kAnswer && head_only_) return;
  outcome_.bytes += bytes.size();
  if (state_ != State::kAnswer || minor_ == 0) {
    next_ += bytes;
    return;
  }
  char size[20];
  std::snprintf(size, sizeof size, "%zx\r\n", bytes.size());
  ((next_ += size) += bytes) += "\r\n";
}

void Connection::Flush() {
  if (writing_ || closed_) return;
  if (written_ == out_.size()) {
    out_.clear();
    written_ = 0;
    out_.swap(next_);
  }
  if (out_.empty()) {
    if (state_ == State::kAnswer && ended_) Answered();
    return;
  }
  writing_ = true;
  write_deadline_ = Clock::now() + Seconds(options_.write_seconds);
  socket_.async_write_some(
      boost::asio::buffer(out_.data() + written_, out_.size() - written_),
      [self = shared_from_this()](const error_code& error, size_t count) { self->OnWritten(error, count); });
}

void Connection::OnWritten(const error_code& error, size_t count) {
  writing_ = false;
  if (closed_) return;
  if (error) {
    Leave();
    return;
  }
  written_ += count;
  last_write_ = Clock::now();
  Flush();
}

void Connection::Answered() {
  Tell(false);
  outcome_ = {};
  if (!keep_ || last_) {
    Linger();
    return;
  }
  ended_ = false;
  state_ = State::kIdle;
  SetDeadline(options_.idle_seconds);
  Advance();
  Read();
}

void Connection::Linger() {
  state_ = State::kLinger;
  SetDeadline(options_.linger_seconds);
  in_.clear();
  error_code ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
  Read();
}

// The client is gone, or is treated so.
void Connection::Leave() {
  if (closed_) return;
  if (state_ == State::kAnswer) Tell(true);
  const std::shared_ptr<ConnectionReply> reply = std::move(reply_);
  Close();
  if (reply != nullptr) reply->MarkGone();
}

void Connection::Close() {
  closed_ = true;
  error_code ignored;
  socket_.close(ignored);
}

void Connection::Abandon() {
  const std::shared_ptr<ConnectionReply> reply = std::move(reply_);
  if (!closed_) Close();
  if (reply != nullptr) reply->MarkGone();
}

void Connection::Tell(bool gone) {
  outcome_.gone = gone;
  outcome_.ms = std::chrono::duration<double, std::milli>(Clock::now() - began_).count();
  handler_.Ended(outcome_);
}

// -- the reply
// ---------------------------------------------------------------------------------------------------------

ConnectionReply::~ConnectionReply() {
  if (ended_ || gone_) return;
  boost::asio::post(io_, [connection = connection_] { connection->Leave(); });  // nobody will answer
}

void ConnectionReply::Wake(std::unique_lock<std::mutex> lock) {
  if (posted_ || gone_) return;
  posted_ = true;
  lock.unlock();
  boost::asio::post(io_, [self = shared_from_this()] { self->connection_->Pull(*self); });
}

void ConnectionReply::Send(HttpResponse response) {
  std::unique_lock lock(mutex_);
  if (begun_ || gone_) return;
  begun_ = ended_ = true;
  waiting_.has_head = waiting_.ended = true;
  waiting_.head = std::move(response);
  Wake(std::move(lock));
}

void ConnectionReply::Begin(HttpResponse head) {
  std::unique_lock lock(mutex_);
  if (begun_ || gone_) return;
  begun_ = true;
  waiting_.has_head = waiting_.streamed = true;
  waiting_.head = std::move(head);
  Wake(std::move(lock));
}

void ConnectionReply::Write(std::string_view bytes) {
  std::unique_lock lock(mutex_);
  if (!begun_ || ended_ || gone_ || flooded_) return;
  if (waiting_.bytes.size() + bytes.size() > unsent_ + (size_t{64} << 10)) {
    flooded_ = true;  // the I/O thread does not get round to it
    lock.unlock();
    boost::asio::post(io_, [self = shared_from_this()] { self->connection_->Leave(); });
    return;
  }
  waiting_.bytes += bytes;
  Wake(std::move(lock));
}

void ConnectionReply::End() {
  std::unique_lock lock(mutex_);
  if (!begun_ || ended_ || gone_) return;
  ended_ = waiting_.ended = true;
  Wake(std::move(lock));
}

void ConnectionReply::Ping(double seconds, std::string bytes) {
  const std::lock_guard lock(mutex_);
  ping_seconds_ = seconds;
  ping_ = std::move(bytes);
}

void ConnectionReply::WhenGone(std::function<void()> leave) {
  {
    const std::lock_guard lock(mutex_);
    if (!gone_) {
      leave_ = std::move(leave);
      return;
    }
  }
  leave();
}

ConnectionReply::Waiting ConnectionReply::Take() {
  const std::lock_guard lock(mutex_);
  posted_ = false;
  return std::exchange(waiting_, {});
}

void ConnectionReply::MarkGone() {
  std::function<void()> leave;
  {
    const std::lock_guard lock(mutex_);
    gone_ = true;
    if (!ended_) leave = std::move(leave_);
    leave_ = nullptr;
  }
  if (leave) leave();
}

}  // namespace cambium::server
