#include "io/atomic_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "cambium/error.h"

namespace cambium {

void MakeDirectories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) Fail(ErrorCode::kResource, path, ": cannot make the directory: ", error.message());
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)), temporary_(path_ + ".tmp-XXXXXX") {
  descriptor_ = mkostemp(temporary_.data(), O_CLOEXEC);
  if (descriptor_ < 0) Fail(ErrorCode::kResource, path_, ": cannot create: ", std::strerror(errno));
  const mode_t mask = umask(0);
  umask(mask);
  fchmod(descriptor_, 0666 & ~mask);
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

}  // namespace cambium
