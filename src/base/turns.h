#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace cambium {

// A lock that is given in the order in which it was asked for, so that who takes it again and again lets others
// between.
class Turns {
 public:
  void lock() {
    std::unique_lock lock(mutex_);
    const uint64_t mine = last_++;
    turn_.wait(lock, [&] { return now_ == mine; });
  }
  void unlock() {
    {
      const std::lock_guard lock(mutex_);
      ++now_;
    }
    turn_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable turn_;
  uint64_t last_ = 0, now_ = 0;
};

}  // namespace cambium
