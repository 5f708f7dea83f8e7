#pragma once

#include <cstdint>

namespace cambium {

// Restricts every kernel to the instruction set that CAMBIUM_ISA names: amx, avx3_dl, avx2 or emu128; unset or empty,
// the best that the CPU has. An unknown name, or one that this CPU cannot run, is kUsage. Call before any kernel runs.
void ApplyIsaFromEnv();

// The name of the set in use, one of the four above.
const char* IsaName();

// Highway's target in use, as HWY_CHOSEN_TARGET_SHIFT names it.
int64_t ChosenTarget();

// Whether AMX's tiles of bf16 pairs may be used beside avx3_dl: the CPU has them, the system grants this process their
// state, and neither CAMBIUM_ISA nor AllowAmx(false) says otherwise.
bool HasAmx();
void AllowAmx(bool allow);

}  // namespace cambium
