#include "base/parallel.h"

#include <gtest/gtest.h>

#include <vector>

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

}  // namespace
}  // namespace cambium
