#include "base/limits.h"

#include <algorithm>
#include <climits>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>
#include <vector>

namespace cambium {
namespace {

// The file's first number; nothing where it is absent or says "max".
std::optional<int64_t> Number(const std::string& path) {
  int64_t value = 0;
  if (std::ifstream file(path); file >> value) return value;
  return std::nullopt;
}

// The number behind `key` in lines of "key number".
std::optional<int64_t> Field(const std::string& path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    int64_t value = 0;
    if (words >> name >> value && name == key) return value;
  }
  return std::nullopt;
}

bool Lists(const std::string& list, std::string_view name) {
  return ("," + list + ",").find("," + std::string(name) + ",") != std::string::npos;
}

// The folders that describe this process's group for a controller of version 1, or of version 2 where it is empty: the
// group's own and all above it. Inside a container the path may be the host's; what is not there limits nothing.
std::vector<std::string> GroupFolders(const std::string& root, std::string_view controller) {
  std::vector<std::string> folders;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // "4:memory:/path", "0::/path"
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controller.empty() ? !controllers.empty() : !Lists(controllers, controller)) continue;
    const std::string base = root + "/sys/fs/cgroup";
    std::vector<std::string> mounts = {base + "/" + (controller.empty() ? "unified" : std::string(controller))};
    if (controller.empty()) mounts.push_back(base);
    if (!controller.empty() && controllers != controller) mounts.push_back(base + "/" + controllers);
    for (const std::string& mount : mounts) {
      folders.push_back(mount);
      for (size_t end = second + 1; end != std::string::npos;) {  // "/", "/a", "/a/b"
        end = line.find('/', end + 1);
        folders.push_back(mount + line.substr(second + 1, end == std::string::npos ? end : end - second - 1));
      }
    }
  }
  return folders;
}

int64_t MemoryLeft(const std::string& root) {
  struct Names {
    const char *controller, *limit, *usage, *inactive, *active;
  };
  constexpr Names kVersions[] = {
      {"", "/memory.max", "/memory.current", "inactive_file", "active_file"},
      {"memory", "/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file", "total_active_file"}};
  int64_t left = INT64_MAX;
  for (const Names& names : kVersions) {
    for (const std::string& folder : GroupFolders(root, names.controller)) {
      const std::optional<int64_t> limit = Number(folder + names.limit);
      if (!limit) continue;
      const std::string stat = folder + "/memory.stat";
      const int64_t cached = Field(stat, names.inactive).value_or(0) + Field(stat, names.active).value_or(0);
      const int64_t used = Number(folder + names.usage).value_or(0) - cached;
      left = std::min(left, std::max<int64_t>(0, *limit - std::max<int64_t>(0, used)));
    }
  }
  return left;
}

}  // namespace

int CpuQuota(const std::string& root) {
  int64_t cpus = INT_MAX;
  const auto limit = [&](int64_t quota, int64_t period) {
    if (quota > 0 && period > 0) cpus = std::min(cpus, quota / period + (quota % period != 0));
  };
  for (const std::string& folder : GroupFolders(root, "")) {
    std::ifstream file(folder + "/cpu.max");  // "200000 100000", "max 100000"
    int64_t quota = 0, period = 0;
    if (file >> quota >> period) limit(quota, period);
  }
  for (const std::string& folder : GroupFolders(root, "cpu")) {
    limit(Number(folder + "/cpu.cfs_quota_us").value_or(-1), Number(folder + "/cpu.cfs_period_us").value_or(0));
  }
  return static_cast<int>(cpus);
}

int64_t AvailableMemory(const std::string& root) {
  const std::optional<int64_t> kib = Field(root + "/proc/meminfo", "MemAvailable:");
  return std::min(kib && *kib < INT64_MAX / 1024 ? *kib * 1024 : INT64_MAX, MemoryLeft(root));
}

}  // namespace cambium
