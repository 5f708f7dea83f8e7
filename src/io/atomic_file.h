#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace cambium {

// Makes the directory and those above it, where they are missing; kResource.
void MakeDirectories(const std::string& path);

// Writes `path` whole or not at all: the bytes go to a temporary file beside it, which Commit() syncs and renames over
// it. Without Commit the temporary file is removed, and an older `path` (which may be mapped) stays as it was.
// Failures are kResource.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void Write(std::span<const uint8_t> bytes);
  void Write(std::string_view text) { Write({reinterpret_cast<const uint8_t*>(text.data()), text.size()}); }
  void Zeros(uint64_t count);
  uint64_t written() const { return written_; }
  void Commit();

 private:
  [[noreturn]] void FailSystem(const char* what);
  std::string path_, temporary_;
  int descriptor_ = -1;
  uint64_t written_ = 0;
};

// Makes `link` point to `target`, in one step in place of what the name was before; kResource.
void ReplaceLink(const std::string& target, const std::string& link);

// Renames the directory `made` to `path`. One that is there is exchanged for it in one step, where the file system can,
// and removed only then: at no time is neither there. kResource, with what was there still there.
void ReplaceDirectory(const std::string& made, const std::string& path);

// A new directory beside `target`, with a name that nothing had, for what is made on the way. It goes with all that it
// holds. kResource where it cannot be made.
class ScratchDirectory {
 public:
  explicit ScratchDirectory(const std::string& target);
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;

  std::string Path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace cambium
