#include "base/parallel.h"

#include <sched.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/limits.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace cambium {
namespace {

// Long enough to bridge the gap between two matrix products of one pass, short enough to cost nothing when idle.
constexpr int kSpins = 20000;

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { WorkerLoop(i); });
  } catch (const std::exception& refusal) {
    Stop();
    Fail(ErrorCode::kResource, "thread ", workers_.size() + 2, " of ", threads, " cannot start: ", refusal.what());
  }
}

ThreadPool::~ThreadPool() { Stop(); }

void ThreadPool::Stop() noexcept {
  {
    std::lock_guard lock(mutex_);
    stop_.store(true, std::memory_order_seq_cst);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Drain(uint32_t generation, int thread) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (ticket >> 32 == generation && static_cast<uint32_t>(ticket) != 0) {
    if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acquire)) continue;
    try {
      function_(context_, tasks_ - static_cast<int64_t>(static_cast<uint32_t>(ticket)), thread);
    } catch (...) {
      Fault(generation);
    }
    done_.fetch_add(1, std::memory_order_release);
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

// Keeps the exception being handled, unless another task's came first, and takes every task that nobody has begun.
void ThreadPool::Fault(uint32_t generation) noexcept {
  {
    std::lock_guard lock(mutex_);
    if (failure_ == nullptr) failure_ = std::current_exception();
  }
  // The job is not done before the caller of this has counted its own task, so that the generation stands.
  const uint64_t none = uint64_t{generation} << 32;
  const uint64_t left = ticket_.exchange(none, std::memory_order_acquire) - none;
  done_.fetch_add(static_cast<int64_t>(left), std::memory_order_release);
}

void ThreadPool::RunErased(int64_t tasks, Function function, const void* context) {
  Check(tasks <= UINT32_MAX, "a job has at most 2^32 - 1 tasks");
  function_ = function;
  context_ = context;
  tasks_ = tasks;
  done_.store(0, std::memory_order_relaxed);
  const uint32_t generation = static_cast<uint32_t>(ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(uint64_t{generation} << 32 | static_cast<uint32_t>(tasks), std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
  Drain(generation, 0);
  for (int spins = 0; done_.load(std::memory_order_acquire) != tasks; ++spins) {
    if (spins < kSpins) {
      Pause();
    } else {
      sched_yield();
    }
  }
  if (failure_ != nullptr) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void ThreadPool::WorkerLoop(int thread) {
  uint32_t seen = 0;
  const auto news = [&] {
    return static_cast<uint32_t>(ticket_.load(std::memory_order_seq_cst) >> 32) != seen ||
           stop_.load(std::memory_order_relaxed);
  };
  while (true) {
    for (int spins = 0; !news(); ++spins) {
      if (spins < kSpins) {
        Pause();
        continue;
      }
      std::unique_lock lock(mutex_);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, news);
      sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }
    if (stop_.load(std::memory_order_relaxed)) return;
    seen = static_cast<uint32_t>(ticket_.load(std::memory_order_acquire) >> 32);
    Drain(seen, thread);
  }
}

int DefaultThreads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::min(CPU_COUNT(&set), CpuQuota());
}

}  // namespace cambium
