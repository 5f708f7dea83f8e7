#pragma once

// Include before any Highway header. Two SIMD targets and a portable baseline keep builds short: AVX2 is the least that
// is fast, AVX3_DL is AVX-512 with VNNI and more; CPUs with less of AVX-512 run AVX2. AMX and 256-bit VNNI are no targets
// of Highway's: base/isa.h says whether a kernel may use them. CAMBIUM_ISA=amx|avx3_dl|avx_vnni|avx2|emu128 forces a set.
#define HWY_WANT_AVX3_DL  // Highway 1.0.3 leaves it out unless asked
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3)
