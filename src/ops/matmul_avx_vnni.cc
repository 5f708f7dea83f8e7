#include <bit>
#include <cstring>

#include "base/simd_targets.h"
#include "hwy/base.h"
#include "ops/matmul_kernels.h"

#if HWY_ARCH_X86
#include <immintrin.h>

// AVX2 with AVX-VNNI, which most CPUs without AVX-512 have since 2021: vpdpbusd as VEX encodes it.
HWY_PUSH_ATTRIBUTES("avx,avx2,fma,f16c,bmi2,avxvnni")
namespace cambium {
namespace {

HWY_INLINE __m256i Dot(__m256i acc, __m256i weights, __m256i x) { return _mm256_dpbusd_avx_epi32(acc, weights, x); }

#include "ops/matmul_vnni256-inl.h"

}  // namespace

void Int8AvxVnni(const PanelCall& call) noexcept { MultiplyInt8<FourDots>(call); }

}  // namespace cambium
HWY_POP_ATTRIBUTES
#endif
