// Shapes and sizes at their edges: no extent and no product of extents may kill the process.
#include <gtest/gtest.h>

#include <limits>

#include "file_testing.h"
#include "model/kv_cache.h"
#include "tensor/buffer.h"
#include "tiny_model.h"

namespace cambium {
namespace {

constexpr int64_t kMost = std::numeric_limits<int64_t>::max();

TEST(Tensor, HasNoRowsOrNoColumnsWhereAnExtentIsZero) {
  const Tensor none;
  EXPECT_EQ(none.rows(), 0);
  EXPECT_EQ(none.columns(), 0);
  EXPECT_EQ(none.size(), 0);
  EXPECT_EQ(none.bytes(), 0);
  float value = 0;
  const Tensor no_columns(&value, {3, 0}), no_rows(&value, {0, 7}), middle(&value, {2, 0, 5});
  EXPECT_EQ(no_columns.rows(), 3);
  EXPECT_EQ(no_columns.size(), 0);
  EXPECT_EQ(no_columns.bytes(), 0);
  EXPECT_EQ(no_rows.rows(), 0);
  EXPECT_EQ(no_rows.columns(), 7);
  EXPECT_EQ(middle.rows(), 0);
  EXPECT_EQ(middle.size(), 0);
  EXPECT_EQ(Tensor(&value, {5}).rows(), 1);
  const OwnedTensor empty({4, 0});
  EXPECT_EQ(empty.view.size(), 0);
}

template <class F>
void OutOfMemory(std::initializer_list<std::string_view> parts, const F& f) {
  testing::ExpectError(ErrorCode::kResource, parts, f);
}

TEST(Memory, SizesThatWrapAreErrorsWithTheirNumbers) {
  for (const size_t bytes : {SIZE_MAX, SIZE_MAX - 4, SIZE_MAX - (size_t{2} << 20), SIZE_MAX / 2 + 1}) {
    OutOfMemory({"out of memory", std::to_string(bytes)}, [&] { Buffer buffer(bytes); });
  }
  OutOfMemory({"out of memory", "4611686018427387904 x 4"}, [] { OwnedTensor({int64_t{1} << 62}); });
  OutOfMemory({"out of memory", "4294967296 x 4294967296"}, [] { OwnedTensor({int64_t{1} << 32, int64_t{1} << 32}); });
  OutOfMemory({"out of memory", "-3"}, [] { OwnedTensor({-3, 5}); });
  Workspace workspace;
  OutOfMemory({"out of memory"}, [&] { workspace.New({kMost, 2}); });
  OutOfMemory({"out of memory"}, [&] { workspace.Array<double>(kMost / 4); });
  EXPECT_EQ(workspace.New({2, 3}).size(), 6) << "it goes on";
  EXPECT_EQ(CheckedBytes({}), 1u);
  EXPECT_EQ(CheckedBytes({3, 0, kMost}), 0u);
}

TEST(Memory, AContextThatNoMemoryHoldsIsAnError) {
  ThreadPool pool(1);
  const auto weights = TinyModel(pool, 1);
  for (const int64_t slots : {kMost, kMost - 20, kMost / 64, int64_t{1} << 50}) {
    OutOfMemory({"out of memory", " bytes"}, [&] { KvCache(weights->config, DType::kF16, slots); });
  }
}

}  // namespace
}  // namespace cambium
