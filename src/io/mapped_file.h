#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace cambium {

// A whole file mapped read-only. Reading pages that vanished (the file was truncated by somebody else, or the disk
// failed) gives zeros instead of a crash, and CheckIntact() reports it. Move-only.
class MappedFile {
 public:
  explicit MappedFile(std::string path);  // kData if the file cannot be opened or is not a regular file
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::string& path() const { return path_; }
  std::span<const uint8_t> bytes() const { return {data_, size_}; }

  // Throws kData if bytes were lost since the file was mapped. Call it after every bulk read.
  void CheckIntact() const;

  // Drops the whole pages inside [begin, begin + bytes) from resident memory; a later read brings them back.
  void Evict(const void* begin, uint64_t bytes) const noexcept;

 private:
  MappedFile() = default;  // an empty one, so that whatever throws in the other constructor meets a destructor
  struct Slot;
  static void HandleSigbus(int signal, void* info, void* context);

  std::string path_;
  const uint8_t* data_ = nullptr;
  uint64_t size_ = 0;
  int descriptor_ = -1;
  Slot* slot_ = nullptr;
};

}  // namespace cambium
