#pragma once

namespace cambium {

// Restricts every kernel to the instruction set that CAMBIUM_ISA names: avx3_dl, avx2 or emu128; unset or empty, the
// best that the CPU has. An unknown name, or one that this CPU cannot run, is kUsage. Call before any kernel runs.
void ApplyIsaFromEnv();

// The name of the set in use, one of the three above.
const char* IsaName();

}  // namespace cambium
