#include <bit>
#include <cstring>

#include "base/simd_targets.h"
#include "hwy/base.h"
#include "ops/matmul_kernels.h"

#if HWY_ARCH_X86
#include <immintrin.h>

// CPUs with AVX-512 VNNI that lack a part of AVX3_DL (Cascade Lake): vpdpbusd as EVEX encodes it, in 256 bits.
HWY_PUSH_ATTRIBUTES("avx,avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
namespace cambium {
namespace {

HWY_INLINE __m256i Dot(__m256i acc, __m256i weights, __m256i x) { return _mm256_dpbusd_epi32(acc, weights, x); }

#include "ops/matmul_vnni256-inl.h"

}  // namespace

void Int8Avx512Vnni256(const PanelCall& call) noexcept { MultiplyInt8<FourDots>(call); }

}  // namespace cambium
HWY_POP_ATTRIBUTES
#endif
