#include "io/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>

#include "cambium/error.h"

namespace cambium {

void MakeDirectories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) Fail(ErrorCode::kResource, path, ": cannot make the directory: ", error.message());
}

namespace {

// A name beside `target` that nothing had: `make` gets names until it makes one that is not there (EEXIST).
std::string MakeBeside(const std::string& target, const std::function<bool(const char* name)>& make) {
  static constexpr char kLetters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
  std::random_device random;
  for (int attempt = 0; attempt < 100; ++attempt) {
    std::string name = target + ".tmp-";
    for (int i = 0; i < 8; ++i) name += kLetters[random() % (sizeof kLetters - 1)];
    if (make(name.c_str())) return name;
    if (errno != EEXIST) break;
  }
  Fail(ErrorCode::kResource, target, ": cannot create: ", std::strerror(errno));
}

}  // namespace

void ReplaceLink(const std::string& target, const std::string& link) {
  const std::string made = MakeBeside(link, [&](const char* name) { return symlink(target.c_str(), name) == 0; });
  if (rename(made.c_str(), link.c_str()) == 0) return;
  const std::string why = std::strerror(errno);
  unlink(made.c_str());
  Fail(ErrorCode::kResource, link, ": cannot link: ", why);
}

void ReplaceDirectory(const std::string& made, const std::string& path) {
  const auto fail = [&](int why) { Fail(ErrorCode::kResource, path, ": cannot rename: ", std::strerror(why)); };
  std::error_code ignored;
  if (renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0) {
    std::filesystem::remove_all(made, ignored);
    return;
  }
  if (errno == ENOENT) {  // nothing is there
    if (rename(made.c_str(), path.c_str()) != 0) fail(errno);
    return;
  }
  if (errno != EINVAL && errno != ENOSYS) fail(errno);
  // The file system knows no exchange: a death between these two renames leaves both under other names.
  const std::string old = made + ".old";
  if (rename(path.c_str(), old.c_str()) != 0) fail(errno);
  if (rename(made.c_str(), path.c_str()) != 0) {
    const int why = errno;
    rename(old.c_str(), path.c_str());
    fail(why);
  }
  std::filesystem::remove_all(old, ignored);
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  temporary_ = MakeBeside(path_, [&](const char* name) {
    descriptor_ = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);  // less the process's umask
    return descriptor_ >= 0;
  });
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  close(descriptor_);
  unlink(temporary_.c_str());
}

void AtomicFile::FailSystem(const char* what) {
  Fail(ErrorCode::kResource, path_, ": ", what, " failed after ", written_, " bytes: ", std::strerror(errno));
}

void AtomicFile::Write(std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = write(descriptor_, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) FailSystem("writing");
    written_ += static_cast<uint64_t>(done);
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
}

void AtomicFile::Zeros(uint64_t count) {
  static constexpr std::array<uint8_t, 4096> kZeros{};
  for (; count > 0; count -= std::min<uint64_t>(count, kZeros.size())) {
    Write(std::span(kZeros).first(std::min<uint64_t>(count, kZeros.size())));
  }
}

void AtomicFile::Commit() {
  if (fsync(descriptor_) != 0) FailSystem("syncing");
  if (rename(temporary_.c_str(), path_.c_str()) != 0) FailSystem("renaming");
  close(descriptor_);
  descriptor_ = -1;
  const std::string folder = std::filesystem::path(path_).parent_path().string();
  const int directory = open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return;  // the file is in place; some file systems do not let directories be opened
  fsync(directory);
  close(directory);
}

ScratchDirectory::ScratchDirectory(const std::string& target) {
  const std::string above = std::filesystem::path(target).parent_path().string();
  if (!above.empty()) MakeDirectories(above);
  path_ = MakeBeside(target, [](const char* name) { return mkdir(name, 0777) == 0; });
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace cambium
