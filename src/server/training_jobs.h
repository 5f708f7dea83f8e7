#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "server/child_process.h"

namespace cambium::server {

// Runs `train` and `plan` as children, one at a time: two would share the memory and the cores. Safe from any thread.
class TrainingJobs {
 public:
  struct Job {
    std::string name;  // of the run; of a plan empty
    ChildOptions child;
    std::function<void(int code)> ended;  // on a thread of this class; throws nothing
    double seconds = 0;                   // that it may take; 0: any
  };

  TrainingJobs();
  ~TrainingJobs();  // asks what runs to save a checkpoint and end, and ends it after kPatience

  bool Start(Job job);                 // false where one runs
  bool Stop(const std::string& name);  // asks it to end, the second time at once; false where it does not run
  struct Running {
    std::string name;
    pid_t pid;
    bool stopping;
  };
  std::optional<Running> running() const;

  static constexpr auto kPatience = std::chrono::seconds(10);

 private:
  using Clock = std::chrono::steady_clock;
  void Run();

  mutable std::mutex mutex_;
  std::condition_variable woken_;
  std::unique_ptr<ChildProcess> child_;
  Job job_;
  std::optional<Clock::time_point> deadline_;
  bool stopping_ = false, quit_ = false;
  std::thread thread_;
};

}  // namespace cambium::server
