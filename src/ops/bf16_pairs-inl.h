// Packing into bf16 pairs with AVX-512, for the tables of gemm_bf16.cc and gemm_amx.cc: included after their target
// attributes, inside their anonymous namespace.

__mmask16 FirstLanes(int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xffffu : count <= 0 ? 0u : (1u << count) - 1);
}

__m512 LoadF32(const Source& source, int64_t offset, __mmask16 mask) {
  if (source.dtype == DType::kF16) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(source.data) + offset));
  }
  return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(source.data) + offset);
}

// Elements k .. k + 31 of a line as 16 pairs, those from `count` on zero.
__m512i LoadPairs(const Source& source, int64_t line, int64_t k, int64_t count) {
  const __mmask16 low_mask = FirstLanes(count), high_mask = FirstLanes(count - 16);
  const int64_t low = line * source.stride + k / 16 * source.k16, high = low + source.k16;
  if (source.dtype == DType::kBF16) {
    const uint16_t* from = static_cast<const uint16_t*>(source.data);
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi16(low_mask, from + low)),
                              _mm256_maskz_loadu_epi16(high_mask, from + high), 1);
  }
  return (__m512i)_mm512_cvtne2ps_pbh(LoadF32(source, high, high_mask), LoadF32(source, low, low_mask));
}

// Turns 16 values and the 16 after them into pairs of one of each.
__m512i Interleave() {
  alignas(64) static constexpr uint16_t kInterleave[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                           21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                           11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_load_si512(kInterleave);
}

// Pairs of 16 lines: the elements at `offset` of those in `even`, and one source line further of those in `odd`.
__m512i LoadAcross(const Source& source, int64_t offset, __mmask16 even, __mmask16 odd) {
  __m512i halves;
  if (source.dtype == DType::kBF16) {
    const uint16_t* from = static_cast<const uint16_t*>(source.data) + offset;
    halves = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi16(even, from)),
                                _mm256_maskz_loadu_epi16(odd, from + source.stride), 1);
  } else {
    halves = (__m512i)_mm512_cvtne2ps_pbh(LoadF32(source, offset + source.stride, odd), LoadF32(source, offset, even));
  }
  return _mm512_permutexvar_epi16(Interleave(), halves);
}

// to [16][16] = the transpose of x.
void Transpose(const __m512i x[16], uint32_t* to) {
  __m512i y[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 4) {
    const __m512i p = _mm512_unpacklo_epi32(x[i], x[i + 1]), q = _mm512_unpacklo_epi32(x[i + 2], x[i + 3]);
    const __m512i r = _mm512_unpackhi_epi32(x[i], x[i + 1]), s = _mm512_unpackhi_epi32(x[i + 2], x[i + 3]);
    y[i] = _mm512_unpacklo_epi64(p, q);
    y[i + 1] = _mm512_unpackhi_epi64(p, q);
    y[i + 2] = _mm512_unpacklo_epi64(r, s);
    y[i + 3] = _mm512_unpackhi_epi64(r, s);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i p = _mm512_shuffle_i32x4(y[i], y[i + 4], 0x44), q = _mm512_shuffle_i32x4(y[i + 8], y[i + 12], 0x44);
    const __m512i r = _mm512_shuffle_i32x4(y[i], y[i + 4], 0xee), s = _mm512_shuffle_i32x4(y[i + 8], y[i + 12], 0xee);
    _mm512_store_si512(to + 16 * i, _mm512_shuffle_i32x4(p, q, 0x88));
    _mm512_store_si512(to + 16 * (i + 4), _mm512_shuffle_i32x4(p, q, 0xdd));
    _mm512_store_si512(to + 16 * (i + 8), _mm512_shuffle_i32x4(r, s, 0x88));
    _mm512_store_si512(to + 16 * (i + 12), _mm512_shuffle_i32x4(r, s, 0xdd));
  }
}

// Panels [words][16 lines]; what lies between an incomplete last pair or step of 16 words and its end is zero.
void PackKMinor(const Source& source, int lines, int64_t k, int /*stride*/, uint32_t* panel) {
  for (int64_t begin = 0; begin < k; begin += 32) {
    __m512i x[16];
#pragma GCC unroll 16
    for (int line = 0; line < 16; ++line) {
      x[line] = LoadPairs(source, line < lines ? line : lines - 1, begin, k - begin);
    }
    Transpose(x, panel + begin / 2 * 16);
  }
}

void PackKMajor(const Source& source, int lines, int64_t k, int /*stride*/, uint32_t* panel) {
  const __mmask16 mask = FirstLanes(lines);
  for (int64_t i = 0; i < k; i += 2) {
    _mm512_store_si512(panel + i / 2 * 16, LoadAcross(source, i * source.stride, mask, i + 1 < k ? mask : 0));
  }
  for (int64_t word = (k + 1) / 2; word % kWordStep != 0; ++word) {
    _mm512_store_si512(panel + word * 16, _mm512_setzero_si512());
  }
}
