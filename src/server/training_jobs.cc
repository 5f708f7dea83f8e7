#include "server/training_jobs.h"

#include <signal.h>

#include <utility>

namespace cambium::server {

constexpr auto kPoll = std::chrono::milliseconds(50);

TrainingJobs::TrainingJobs() : thread_([this] { Run(); }) {}

TrainingJobs::~TrainingJobs() {
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
    if (child_ != nullptr) {
      child_->Signal(SIGINT);
      deadline_ = Clock::now() + kPatience;
    }
  }
  woken_.notify_one();
  thread_.join();
}

bool TrainingJobs::Start(Job job) {
  const std::lock_guard lock(mutex_);
  if (child_ != nullptr || quit_) return false;
  child_ = std::make_unique<ChildProcess>(job.child);
  job_ = std::move(job);
  stopping_ = false;
  deadline_.reset();
  if (job_.seconds > 0) {
    deadline_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(job_.seconds));
  }
  woken_.notify_one();
  return true;
}

bool TrainingJobs::Stop(const std::string& name) {
  const std::lock_guard lock(mutex_);
  if (child_ == nullptr || job_.name != name) return false;
  child_->Signal(SIGINT);
  stopping_ = true;
  return true;
}

std::optional<TrainingJobs::Running> TrainingJobs::running() const {
  const std::lock_guard lock(mutex_);
  if (child_ == nullptr) return std::nullopt;
  return Running{job_.name, child_->pid(), stopping_};
}

void TrainingJobs::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    if (child_ == nullptr) {
      if (quit_) return;
      woken_.wait(lock);
      continue;
    }
    if (const std::optional<int> code = child_->Poll()) {
      const std::function<void(int)> ended = std::move(job_.ended);
      lock.unlock();
      ended(*code);  // before another may start
      lock.lock();
      child_.reset();
      continue;
    }
    if (deadline_ && Clock::now() > *deadline_) {
      child_->Signal(SIGKILL);
      deadline_.reset();
    }
    woken_.wait_for(lock, kPoll);
  }
}

}  // namespace cambium::server
