#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/mapped_file.h"

namespace cambium {

// A zip archive (APPNOTE.TXT 6.3) of members that are stored or deflated: what Python's wheels are. kData, naming the
// file, where it is another, encrypted, or one of 4 GiB and more (zip64).
class ZipFile {
 public:
  struct Member {
    std::string name;
    uint16_t method = 0;  // 0: stored; 8: deflated
    uint32_t crc = 0;
    uint64_t stored = 0, size = 0;  // bytes in the archive, and of the member
    uint64_t header = 0;            // where its local header is
  };

  explicit ZipFile(const std::string& path);
  const std::vector<Member>& members() const { return members_; }
  const Member* Find(std::string_view name) const;  // null: none
  // Gives the member's bytes piece by piece, and fails where they are not as many or their CRC is not as it says.
  void Read(const Member& member, const std::function<void(std::span<const uint8_t>)>& use) const;
  std::string ReadText(const Member& member, uint64_t most) const;

 private:
  std::span<const uint8_t> At(uint64_t offset, uint64_t count, const char* what) const;

  MappedFile file_;
  std::vector<Member> members_;
};

}  // namespace cambium
