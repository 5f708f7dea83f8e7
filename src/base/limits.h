#pragma once

#include <cstdint>
#include <string>

namespace cambium {

// What the system and this process's control group leave to it. A container's limits are its group's, version 1 or 2,
// and those of the groups above it. `root` stands for "/" in tests. A file that is absent limits nothing.

// The processors that the group's quota of time pays for, rounded up, at least 1; INT_MAX without a quota.
int CpuQuota(const std::string& root = "");

// The bytes that can still be taken: MemAvailable, or what lacks to the group's limit, its page cache not counted.
// INT64_MAX where neither is known.
int64_t AvailableMemory(const std::string& root = "");

}  // namespace cambium
