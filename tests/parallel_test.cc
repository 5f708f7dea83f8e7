#include "base/parallel.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/limits.h"
#include "file_testing.h"
#include "sanitizer.h"

namespace cambium {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int round = 0; round < 2000; ++round) {
      std::vector<int> counts(static_cast<size_t>(round % 37));
      pool.Run(static_cast<int64_t>(counts.size()), [&](int64_t task, int thread) {
        ASSERT_GE(thread, 0);
        ASSERT_LT(thread, threads);
        ++counts[static_cast<size_t>(task)];
      });
      for (const int count : counts) ASSERT_EQ(count, 1);
    }
  }
}

// Whichever thread meets it; what the tasks refer to is gone as soon as Run has thrown.
TEST(ThreadPool, AnExceptionReachesTheCallerAsItWasThrown) {
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 500; ++round) {
      const auto inside = std::make_unique<std::atomic<int>>(0);
      const int64_t bad = round % 97;
      try {
        pool.Run(97, [&, counter = inside.get()](int64_t task, int) {
          ++*counter;
          if (task == bad) Fail(ErrorCode::kData, "task ", task);
          --*counter;
        });
        FAIL() << "no exception";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kData);
        EXPECT_EQ(std::string(error.what()), "task " + std::to_string(bad));
      }
      EXPECT_EQ(*inside, 1) << "a thread was still inside";
      std::atomic<int64_t> sum{0};
      pool.Run(50, [&](int64_t task, int) { sum += task; });
      ASSERT_EQ(sum, 49 * 50 / 2) << "the pool goes on";
    }
  }
}

TEST(ThreadPool, OneExceptionOfManyReachesTheCaller) {
  ThreadPool pool(4);
  for (int round = 0; round < 500; ++round) {
    EXPECT_THROW(pool.Run(64, [](int64_t, int) { throw std::bad_alloc(); }), std::bad_alloc);
  }
  int calls = 0;
  EXPECT_THROW(ThreadPool(1).Run(8, [&](int64_t, int) { ++calls, throw std::bad_alloc(); }), std::bad_alloc);
  EXPECT_EQ(calls, 1) << "what nobody has begun is left out";
}

// Exits with the error's code.
[[noreturn]] void StartThreadsWithoutRoom() {
  int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlim_t limit = static_cast<rlim_t>(pages) * 4096 + (rlim_t{64} << 20);
  const rlimit room{limit, limit};
  setrlimit(RLIMIT_AS, &room);
  try {
    ThreadPool pool(1000);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::exit(static_cast<int>(error.code()));
  }
  std::exit(0);
}

// In a process of its own, whose address space has no room for another thread's stack.
TEST(ThreadPoolDeathTest, ThreadsThatCannotStartAreOneError) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's own memory is beyond the limit";
  EXPECT_EXIT(StartThreadsWithoutRoom(), ::testing::ExitedWithCode(4), "thread [0-9]+ of 1000 cannot start");
}

class Limits : public ::testing::Test {
 protected:
  void File(const std::string& name, const std::string& text) { testing::WriteFile(folder_.path() + name, text); }
  int Cpus() const { return CpuQuota(folder_.path()); }
  int64_t Memory() const { return AvailableMemory(folder_.path()); }

 private:
  TempFolder folder_;
};

TEST_F(Limits, NothingKnownLimitsNothing) {
  EXPECT_EQ(Cpus(), INT_MAX);
  EXPECT_EQ(Memory(), INT64_MAX);
  File("/proc/meminfo", "MemTotal:       16000 kB\nMemFree:  10 kB\nMemAvailable:    9000 kB\n");
  File("/proc/self/cgroup", "0::/\n");
  File("/sys/fs/cgroup/cpu.max", "max 100000\n");
  File("/sys/fs/cgroup/memory.max", "max\n");
  EXPECT_EQ(Cpus(), INT_MAX);
  EXPECT_EQ(Memory(), 9000 * 1024);
}

TEST_F(Limits, AGroupOfVersion2) {
  File("/proc/meminfo", "MemAvailable:    9000000 kB\n");
  File("/proc/self/cgroup", "0::/pod/container\n");
  File("/sys/fs/cgroup/pod/container/cpu.max", "250000 100000\n");
  File("/sys/fs/cgroup/pod/container/memory.max", "1000000\n");
  File("/sys/fs/cgroup/pod/container/memory.current", "900000\n");
  File("/sys/fs/cgroup/pod/container/memory.stat", "anon 500000\ninactive_file 300000\nactive_file 100000\n");
  EXPECT_EQ(Cpus(), 3) << "two and a half";
  EXPECT_EQ(Memory(), 500000) << "the page cache makes way";
  File("/sys/fs/cgroup/pod/cpu.max", "50000 100000\n");
  File("/sys/fs/cgroup/pod/memory.max", "700000\n");
  File("/sys/fs/cgroup/pod/memory.current", "800000\n");
  EXPECT_EQ(Cpus(), 1) << "the group above allows less";
  EXPECT_EQ(Memory(), 0);
}

// As a container without a name space of its own sees it: the path is the host's, the mount is the group's.
TEST_F(Limits, AGroupOfVersion1) {
  File("/proc/self/cgroup", "12:pids:/x\n4:memory:/docker/0123\n3:cpu,cpuacct:/docker/0123\n0::/system.slice\n");
  File("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "400000\n");
  File("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  File("/sys/fs/cgroup/memory/memory.limit_in_bytes", "5000\n");
  File("/sys/fs/cgroup/memory/memory.usage_in_bytes", "3000\n");
  File("/sys/fs/cgroup/memory/memory.stat", "total_inactive_file 400\ntotal_active_file 600\n");
  EXPECT_EQ(Cpus(), 4);
  EXPECT_EQ(Memory(), 3000);
  File("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  File("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(Cpus(), INT_MAX);
  EXPECT_GT(Memory(), int64_t{1} << 60);
}

TEST_F(Limits, DamagedFilesLimitNothing) {
  File("/proc/self/cgroup", "\n::\n1:cpu\n0::/a\n4:memory:\n");
  File("/sys/fs/cgroup/a/cpu.max", "0 0\n");
  File("/sys/fs/cgroup/memory/memory.limit_in_bytes", "much\n");
  File("/proc/meminfo", "MemAvailable: kB\n");
  EXPECT_EQ(Cpus(), INT_MAX);
  EXPECT_EQ(Memory(), INT64_MAX);
}

TEST(DefaultThreads, IsAtLeastOne) { EXPECT_GE(DefaultThreads(), 1); }

}  // namespace
}  // namespace cambium
