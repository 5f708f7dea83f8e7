// Files that are written whole or not at all, and what they leave beside them.
#include "io/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "file_testing.h"
#include "io/mapped_file.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;

int64_t Entries(const std::string& folder) { return std::distance(fs::directory_iterator(folder), {}); }

mode_t Mode(const std::string& path) {
  struct stat status {};
  EXPECT_EQ(stat(path.c_str(), &status), 0) << path;
  return status.st_mode & 07777;
}

TEST(AtomicFile, KeepsTheOldFileUntilTheNewOneIsWhole) {
  const TempFolder folder;
  const std::string path = folder / "file";
  testing::WriteFile(path, "old");
  {
    AtomicFile file(path);
    file.Write("new");
    EXPECT_EQ(testing::ReadFile(path), "old");
  }
  EXPECT_EQ(testing::ReadFile(path), "old");
  AtomicFile file(path);
  file.Write("new");
  file.Commit();
  EXPECT_EQ(testing::ReadFile(path), "new");
  EXPECT_EQ(Entries(folder.path()), 1);
}

// The process's mask decides, and is never touched: a file that another thread makes meanwhile keeps it.
TEST(AtomicFile, ModesAreTheUmasks) {
  const TempFolder folder;
  const mode_t before = umask(027);
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::thread other([&] {
    for (int i = 0; !stop; ++i) {
      const std::string path = folder / ("other" + std::to_string(i % 8));
      fs::remove(path);
      testing::WriteFile(path, "x");
      if (Mode(path) != 0640) ++wrong;
    }
  });
  for (int i = 0; i < 100; ++i) {
    AtomicFile file(folder / "own");
    file.Write("x");
    file.Commit();
    ASSERT_EQ(Mode(folder / "own"), 0640u);
  }
  stop = true;
  other.join();
  const ScratchDirectory scratch(folder / "made");
  EXPECT_EQ(Mode(scratch.Path(".")), 0750u);
  umask(before);
  EXPECT_EQ(wrong, 0);
}

TEST(ScratchDirectory, GoesWithWhatItHoldsAndTouchesNothingElse) {
  const TempFolder folder;
  const std::string out = folder / "above/out";
  testing::WriteFile(folder / "above/out.tmp", "the user's");
  {
    const ScratchDirectory one(out), two(out);
    EXPECT_NE(one.Path("x"), two.Path("x"));
    testing::WriteFile(one.Path("sub/x"), "1");
    EXPECT_EQ(Entries(folder / "above"), 3);
  }
  EXPECT_EQ(Entries(folder / "above"), 1);
  EXPECT_EQ(testing::ReadFile(folder / "above/out.tmp"), "the user's");
  { const ScratchDirectory deep(folder / "not/there/yet"); }
  testing::ExpectError(ErrorCode::kResource, {"/proc/none"}, [] { ScratchDirectory("/proc/none"); });
}

TEST(MappedFile, WhatCannotBeMappedLeavesNoDescriptor) {
  const TempFolder folder;
  const int64_t before = Entries("/proc/self/fd");
  for (int i = 0; i < 50; ++i) {
    EXPECT_THROW(MappedFile(folder.path()), Error);
    EXPECT_THROW(MappedFile("/dev/null"), Error);
    EXPECT_THROW(MappedFile(folder / "none"), Error);
  }
  EXPECT_EQ(Entries("/proc/self/fd"), before);
}

}  // namespace
}  // namespace cambium
