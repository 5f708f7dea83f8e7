#include "server/engine_loop.h"

#include <algorithm>

namespace cambium::server {

EngineLoop::EngineLoop(Engine& engine, std::function<void(const EngineStats&)> stepped)
    : engine_(engine), stepped_(std::move(stepped)), stats_(engine.stats()) {}

EngineLoop::Ticket EngineLoop::Submit(std::vector<Request> requests, std::shared_ptr<Listener> listener) {
  const std::lock_guard lock(mutex_);
  const Ticket ticket = next_++;
  open_ += std::ssize(requests);
  asked_.emplace(ticket, Asked{std::move(requests), std::move(listener), {}});
  arrived_.push_back(ticket);
  woken_.notify_one();
  return ticket;
}

void EngineLoop::Cancel(Ticket ticket) {
  const std::lock_guard lock(mutex_);
  const auto found = asked_.find(ticket);
  if (found == asked_.end()) return;
  Cancel(found->second);
}

void EngineLoop::Cancel(Asked& asked) {
  asked.cancelled = true;
  for (const RequestId id : asked.ids) engine_.Cancel(id);
}

void EngineLoop::CancelAll() {
  const std::lock_guard lock(mutex_);
  for (auto& [ticket, asked] : asked_) Cancel(asked);
}

void EngineLoop::Stop() {
  CancelAll();
  const std::lock_guard lock(mutex_);
  stop_ = true;
  woken_.notify_one();
}

void EngineLoop::Run() {
  const Sink sink = [this](const Event& event) { Tell(event); };
  while (true) {
    Take();
    const bool more = engine_.Step(sink);
    Publish();
    if (more) continue;
    std::unique_lock lock(mutex_);
    resting_ = true;
    woken_.wait(lock, [this] { return !arrived_.empty() || stop_; });
    resting_ = false;
    if (arrived_.empty()) return;
  }
}

// What has arrived goes into the engine.
void EngineLoop::Take() {
  while (true) {
    std::unique_lock lock(mutex_);
    if (arrived_.empty()) return;
    const Ticket ticket = arrived_.front();
    arrived_.erase(arrived_.begin());
    Asked& asked = asked_.at(ticket);
    const std::shared_ptr<Listener> listener = asked.listener;
    std::vector<Request> requests = std::move(asked.requests);
    lock.unlock();
    Take(ticket, std::move(requests), listener);
  }
}

void EngineLoop::Take(Ticket ticket, std::vector<Request> requests, const std::shared_ptr<Listener>& listener) {
  std::vector<RequestId> ids;
  const int64_t count = std::ssize(requests);
  try {
    for (Request& request : requests) ids.push_back(engine_.Submit(std::move(request)));
  } catch (...) {
    for (const RequestId id : ids) engine_.Cancel(id);  // nobody hears of these
    {
      const std::lock_guard lock(mutex_);
      asked_.erase(ticket);
    }
    open_ -= count;
    listener->OnRefused(std::current_exception());
    return;
  }
  for (size_t i = 0; i < ids.size(); ++i) places_.emplace(ids[i], Place{ticket, listener, i});
  {
    const std::lock_guard lock(mutex_);
    Asked& asked = asked_.at(ticket);
    asked.ids = ids;
    if (asked.cancelled) Cancel(asked);
  }
  listener->OnTaken();
}

void EngineLoop::Publish() {
  const EngineStats stats = engine_.stats();
  {
    const std::lock_guard lock(mutex_);
    stats_ = stats;
  }
  if (stepped_) stepped_(stats);
}

void EngineLoop::Tell(const Event& event) {
  const auto found = places_.find(event.request);
  if (found == places_.end()) return;
  const Place place = found->second;
  if (event.kind == Event::Kind::kFinished) {
    places_.erase(found);
    --open_;
    const std::lock_guard lock(mutex_);
    Asked& asked = asked_.at(place.ticket);
    std::erase(asked.ids, event.request);
    if (asked.ids.empty()) asked_.erase(place.ticket);
  }
  place.listener->OnEvent(place.answer, event);
}

bool EngineLoop::resting() const {
  const std::lock_guard lock(mutex_);
  return resting_ && arrived_.empty();
}

EngineStats EngineLoop::stats() const {
  const std::lock_guard lock(mutex_);
  EngineStats stats = stats_;
  stats.running = std::min(stats.running, open_.load());
  stats.waiting = open_ - stats.running;
  return stats;
}

}  // namespace cambium::server
