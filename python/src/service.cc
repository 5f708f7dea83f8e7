#include "service.h"

#include <pthread.h>
#include <unistd.h>

#include <chrono>
#include <csignal>

namespace cambium::python {

std::optional<Piece> Stream::Next(int milliseconds) {
  std::unique_lock lock(mutex_);
  const auto ready = [&] { return !pieces_.empty() || ended_; };
  if (!ready()) changed_.wait_for(lock, std::chrono::milliseconds(milliseconds), ready);
  if (!pieces_.empty()) {
    Piece piece = std::move(pieces_.front());
    pieces_.pop_front();
    return piece;
  }
  if (error_) std::rethrow_exception(error_);
  return std::nullopt;
}

bool Stream::ended() const {
  const std::lock_guard lock(mutex_);
  return ended_ && pieces_.empty();
}

std::optional<Generation> Stream::Result(int milliseconds) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, std::chrono::milliseconds(milliseconds), [&] { return ended_; })) return std::nullopt;
  if (error_) std::rethrow_exception(error_);
  return generation_;
}

bool Stream::Wake(int eventfd) {
  const std::lock_guard lock(mutex_);
  if (!pieces_.empty() || ended_) return false;
  eventfd_ = eventfd;
  return true;
}

void Stream::Tell() {
  changed_.notify_all();
  if (eventfd_ < 0) return;
  const uint64_t one = 1;
  static_cast<void>(!write(eventfd_, &one, sizeof one));
  eventfd_ = -1;
}

void Stream::Push(const Event& event) {
  if (event.kind == Event::Kind::kPass) return;
  const std::lock_guard lock(mutex_);
  if (event.kind == Event::Kind::kToken || !event.text.empty()) {
    Piece piece{std::string(event.text), event.id, event.origin, {}, {event.top.begin(), event.top.end()}};
    if (event.logprob != nullptr) piece.logprob = event.logprob->logprob;
    pieces_.push_back(std::move(piece));
  }
  if (event.kind == Event::Kind::kFinished) {
    ended_ = true;
    error_ = event.error;
    generation_ = *event.generation;
  }
  Tell();
}

void Stream::End(std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  if (ended_) return;
  ended_ = true;
  error_ = std::move(error);
  Tell();
}

Service::Service(const Model& model, const EngineOptions& options) : engine_(model, options) {
  // Signals are for Python's own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { Run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Service::~Service() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  thread_.join();
  const auto closed = std::make_exception_ptr(Error(ErrorCode::kUsage, "the model was closed while it answered"));
  for (const auto& [id, entry] : streams_) entry.stream->End(closed);
}

Service::Ticket Service::Submit(Request request) {
  // Without the mutex: this may wait for a pass under way, which may wait for the mutex.
  const RequestId id = engine_.Submit(std::move(request));
  std::shared_ptr<Stream> stream;
  {
    const std::lock_guard lock(mutex_);
    asked_ = true;
    Entry& entry = At(id);
    entry.claimed = true;
    stream = entry.stream;
    if (entry.over) streams_.erase(id);
  }
  work_.notify_all();
  return {id, stream};
}

void Service::Cancel(RequestId id) {
  engine_.Cancel(id);
  {
    const std::lock_guard lock(mutex_);
    asked_ = true;
  }
  work_.notify_all();
}

Service::Entry& Service::At(RequestId id) {
  Entry& entry = streams_[id];
  if (entry.stream == nullptr) entry.stream = std::make_shared<Stream>();
  return entry;
}

void Service::Tell(const Event& event) {
  std::shared_ptr<Stream> stream;
  {
    const std::lock_guard lock(mutex_);
    Entry& entry = At(event.request);
    stream = entry.stream;
    if (event.kind == Event::Kind::kFinished) {
      entry.over = true;
      if (entry.claimed) streams_.erase(event.request);
    }
  }
  stream->Push(event);
}

void Service::Run() {
  const Sink sink = [this](const Event& event) { Tell(event); };
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      work_.wait(lock, [&] { return stop_ || asked_; });
      if (stop_) return;
      asked_ = false;
    }
    try {
      bool more = true;
      while (more) {
        more = engine_.Step(sink);
        const std::lock_guard lock(mutex_);
        if (stop_) return;
      }
    } catch (...) {
      const std::exception_ptr error = std::current_exception();
      const std::lock_guard lock(mutex_);
      for (const auto& [id, entry] : streams_) entry.stream->End(error);
      streams_.clear();
    }
  }
}

}  // namespace cambium::python
