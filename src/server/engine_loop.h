#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "cambium/cambium.h"

namespace cambium::server {

// Who asked for generations. Called on the thread that steps, so one call at a time.
class Listener {
 public:
  virtual ~Listener() = default;
  // The engine takes all of them, or none: then what it says, and nothing more comes.
  virtual void OnTaken() = 0;
  virtual void OnRefused(std::exception_ptr why) = 0;
  virtual void OnEvent(size_t answer, const Event& event) = 0;
};

// The one thread that steps an engine and submits to it; the others leave here what they want.
class EngineLoop {
 public:
  using Ticket = int64_t;  // of all generations of one listener; never 0

  // `stepped` is called behind each step, on its thread.
  explicit EngineLoop(Engine& engine, std::function<void(const EngineStats&)> stepped = nullptr);

  // From any thread.
  Ticket Submit(std::vector<Request> requests, std::shared_ptr<Listener> listener);
  void Cancel(Ticket ticket);
  void CancelAll();

  void Run();   // until Stop; what is under way then ends as cancelled
  void Stop();  // from any thread

  // As of the last step, with what waits for the next one.
  EngineStats stats() const;
  int64_t open() const { return open_; }  // generations that have not ended
  bool resting() const;                   // waits to be asked, and does not touch the engine

 private:
  struct Asked {
    std::vector<Request> requests;  // not yet taken
    std::shared_ptr<Listener> listener;
    std::vector<RequestId> ids;  // [answers]
    bool cancelled = false;
  };
  struct Place {
    Ticket ticket;
    std::shared_ptr<Listener> listener;
    size_t answer;
  };
  void Cancel(Asked& asked);  // under the lock
  void Take();
  void Take(Ticket ticket, std::vector<Request> requests, const std::shared_ptr<Listener>& listener);
  void Tell(const Event& event);
  void Publish();

  Engine& engine_;
  std::function<void(const EngineStats&)> stepped_;
  mutable std::mutex mutex_;
  std::condition_variable woken_;
  std::map<Ticket, Asked> asked_;
  std::vector<Ticket> arrived_;
  Ticket next_ = 1;
  bool stop_ = false, resting_ = false;
  EngineStats stats_;
  std::atomic<int64_t> open_ = 0;
  std::map<RequestId, Place> places_;  // on the thread that steps
};

}  // namespace cambium::server
