#pragma once

#include <cstdint>

namespace cambium {

// Restricts every kernel to the instruction set that CAMBIUM_ISA names: amx, avx3_dl, avx_vnni, avx2 or emu128; unset
// or empty, the best that the CPU has. An unknown name, or one that this CPU cannot run, is kUsage. Call before any
// kernel runs.
void ApplyIsaFromEnv();

// The name of the set in use, one of the five above.
const char* IsaName();

// Highway's target in use, as HWY_CHOSEN_TARGET_SHIFT names it.
int64_t ChosenTarget();

// What a CPU may have beside Highway's targets: AMX beside avx3_dl, dot products of bytes beside avx2. Not used after
// AllowExtensions(false), or where CAMBIUM_ISA names the target alone.
void AllowExtensions(bool allow);

// Whether AMX's tiles of bf16 pairs may be used: the target is avx3_dl, the CPU has them, and the system grants this
// process their state.
bool HasAmx();

// How 256-bit vpdpbusd may be used: the target is avx2, and the CPU has AVX-VNNI, or AVX-512 VNNI without the rest of
// avx3_dl.
enum class Vnni256 { kNone, kVex, kEvex };
Vnni256 GetVnni256();

}  // namespace cambium
