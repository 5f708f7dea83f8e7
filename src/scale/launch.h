#pragma once

#include <string_view>

#include "train/ranks.h"

namespace cambium {

// The ranks of this process's job, joined once; null where it is alone. timeout: seconds that one may be waited for (0:
// by the steps). kUsage naming the launcher's variable where libcambium_mpi.so is missing or sees no others: so many
// processes would write one directory.
Ranks* JoinRanks(double timeout);
Ranks* JoinedRanks();  // null until then

// Threads for this process where the user said nothing: its share of the machine's, or 0 (all that it may use) where it
// is alone, or where the launcher bound it to processors of its own.
int ThreadsOfRank();

// Of a process that joined: whether it is the one that tells of an error that ends it, and the end itself, after which
// it must only return the code. Both do nothing for others.
bool SpeaksForRanks(int code, std::string_view message) noexcept;
int LeaveRanks(int code) noexcept;

}  // namespace cambium
