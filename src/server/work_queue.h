#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace cambium::server {

// A helper thread for what would hold up the I/O or a step: JSON, templates, tokenising, loading. Work is done in
// order.
class WorkQueue {
 public:
  WorkQueue();
  ~WorkQueue();                           // what has begun is ended, the rest is dropped
  void Post(std::function<void()> work);  // which throws nothing

 private:
  void Run();
  std::mutex mutex_;
  std::condition_variable woken_;
  std::deque<std::function<void()>> waiting_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace cambium::server
