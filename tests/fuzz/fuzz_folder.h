#pragma once

#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

namespace cambium {

// A folder for what a target's reader wants to find in files: in memory where the system has such a place.
class FuzzFolder {
 public:
  FuzzFolder()
      : path_((std::filesystem::exists("/dev/shm") ? "/dev/shm" : "/tmp") + std::string("/cambium-fuzz-XXXXXX")) {
    if (mkdtemp(path_.data()) == nullptr) abort();
  }
  ~FuzzFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  // Replaces the file; the path of it. A new file each time: a reader that is alive keeps its mapping of the old one.
  std::string Write(std::string_view name, std::string_view bytes) const {
    const std::string path = path_ + "/" + std::string(name);
    std::remove(path.c_str());
    std::FILE* const file = std::fopen(path.c_str(), "wb");
    if (file == nullptr || std::fwrite(bytes.data(), 1, bytes.size(), file) != bytes.size()) abort();
    std::fclose(file);
    return path;
  }
  void Remove(std::string_view name) const { std::remove((path_ + "/" + std::string(name)).c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace cambium
