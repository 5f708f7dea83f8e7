#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace cambium {

// A pool of threads for short loops. Work is cut by shape into tasks; which thread runs a task is not specified and
// must not matter (law 2), so tasks write disjoint results and never combine sums by thread.
class ThreadPool {
 public:
  // The caller is one of the threads; 1 runs everything inline. Throws kResource where the system gives no more
  // threads.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls f(task, thread) for every task in [0, tasks), thread in [0, threads()), and returns when all are done.
  // When f throws, tasks that nobody has begun are left out, and the first exception comes out of here once no thread
  // is inside f. f must not call Run. At most 2^32 - 1 tasks.
  template <class F>
  void Run(int64_t tasks, const F& f) {
    if (tasks <= 1 || workers_.empty()) {
      for (int64_t task = 0; task < tasks; ++task) f(task, 0);
      return;
    }
    RunErased(
        tasks, [](const void* context, int64_t task, int thread) { (*static_cast<const F*>(context))(task, thread); },
        &f);
  }

 private:
  using Function = void (*)(const void* context, int64_t task, int thread);
  void RunErased(int64_t tasks, Function function, const void* context);
  void WorkerLoop(int thread);
  void Drain(uint32_t generation, int thread);
  void Fault(uint32_t generation) noexcept;
  void Stop() noexcept;

  // The job: written before its ticket is published, and stable until its last task is done.
  Function function_ = nullptr;
  const void* context_ = nullptr;
  int64_t tasks_ = 0;
  // High half: the job's generation; low half: tasks that nobody has taken yet. A worker that wakes late finds another
  // generation or nothing left; nobody waits for it.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  std::mutex mutex_;            // of sleeping and of failure_
  std::exception_ptr failure_;  // of the job's first task that threw; read once the job is done
  std::condition_variable wake_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

// The number of threads that this process may keep busy: its affinity, and the quota of its control group
// (base/limits.h).
int DefaultThreads();

}  // namespace cambium
