// Quantised panels in 256-bit registers, 8 outputs each. Included inside a namespace and inside a set's target
// attributes, behind matmul_common-inl.h; no include guard for that reason.

constexpr int kLanes = 8;

// Half of a block's weights: outputs 8 * half and on. kSignedBytes: 8-bit weights are wanted signed, else + 128.
template <DType kType, bool kSignedBytes>
struct Block {
  static constexpr PanelPlanes kPlanes = Planes(kType);
  static constexpr bool kHasMinimum = kPlanes.offset == 0;
  static constexpr bool kTwoScales = kType == DType::kQ6_K;
  static constexpr int kParts = kTwoScales ? 2 : 1;  // runs of inputs with a scale each
  static constexpr bool kSigned = kSignedBytes && kType == DType::kQ8_0;
  static constexpr int kOffset = kSigned ? 0 : kPlanes.offset;
  static constexpr int kOffsetShift = kOffset == 0 ? 0 : std::countr_zero(static_cast<unsigned>(kOffset));

  Block(const PanelLayout& layout, const uint8_t* panel, int64_t index, int half)
      : quants(panel + index * kPlanes.quants + 32 * half),
        high(panel + layout.high + index * kPlanes.high + 32 * half),
        scales(panel + layout.scales + index * kPlanes.scales + (kPlanes.supers == 0 ? 16 : 8) * half),
        supers(panel + layout.supers + index / kSuper * kPlanes.supers + 16 * half) {}

  // Group g; unsigned unless kSigned.
  HWY_INLINE __m256i Group(int g) const {
    if constexpr (kPlanes.quants == 512) {
      const __m256i bytes = Load(quants + 64 * g);
      return kSigned ? _mm256_xor_si256(bytes, _mm256_set1_epi8(INT8_MIN)) : bytes;
    }
    const __m256i both = Load(quants + 64 * (g % 4)), nibble = _mm256_set1_epi8(15);
    __m256i q = _mm256_and_si256(g < 4 ? both : _mm256_srli_epi16(both, 4), nibble);
    if constexpr (kPlanes.high == 64) {
      const __m256i bits = Load(high);
      const __m256i at4 = g <= 4 ? _mm256_slli_epi16(bits, 4 - g) : _mm256_srli_epi16(bits, g - 4);
      q = _mm256_or_si256(q, _mm256_and_si256(at4, _mm256_set1_epi8(16)));
    } else if constexpr (kPlanes.high == 128) {
      const __m256i bits = Load(high + 64 * (g / 4));
      const int shift = 4 - 2 * (g % 4);
      const __m256i at4 = shift >= 0 ? _mm256_slli_epi16(bits, shift) : _mm256_srli_epi16(bits, -shift);
      q = _mm256_or_si256(q, _mm256_and_si256(at4, _mm256_set1_epi8(48)));
    }
    return q;
  }

  HWY_INLINE __m256 Scale(int part = 0) const {
    if constexpr (kPlanes.supers == 0) return HalfVector(scales);
    const __m128i bytes = LoadBytes(scales + 16 * part);
    const __m256i wide = kTwoScales ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes);
    return _mm256_mul_ps(HalfVector(supers), _mm256_cvtepi32_ps(wide));
  }
  HWY_INLINE __m256 Minimum() const {
    if constexpr (kPlanes.supers == 0) return HalfVector(scales + 32);
    const __m256 minimum = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(LoadBytes(scales + 16)));
    return _mm256_xor_ps(_mm256_mul_ps(HalfVector(supers + 32), minimum), _mm256_set1_ps(-0.0f));
  }

  // Fetches what lies 12 KiB further on: a panel and the next ones are one run of memory, and each block asks for its
  // share of it.
  static HWY_INLINE void Prefetch(const uint8_t* panel, int64_t index) {
    constexpr int kShare = kPlanes.quants + kPlanes.high + kPlanes.scales + kPlanes.supers / kSuper;
    const char* at = reinterpret_cast<const char*>(panel + index * kShare + 12288);
    for (int line = 0; line < kShare; line += 64) _mm_prefetch(at + line, _MM_HINT_T0);
  }

  const uint8_t *quants, *high, *scales, *supers;

 private:
  static HWY_INLINE __m256i Load(const uint8_t* from) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
  }
  static HWY_INLINE __m128i LoadBytes(const uint8_t* from) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  }
  static HWY_INLINE __m256 HalfVector(const uint8_t* from) {
    return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(from)));
  }
};

// What Block computes, kept for many rows: both halves of a block.
template <class B>
struct alignas(32) Unpacked {
  __m256i groups[8][2];
  __m256 scales[B::kParts][2];
  __m256 minimum[B::kHasMinimum ? 2 : 1];
};

HWY_INLINE __m256i BroadcastFour(const int8_t* from) {
  int32_t four;
  std::memcpy(&four, from, 4);
  return _mm256_set1_epi32(four);
}

HWY_INLINE void Store(const PanelCall& call, int half, int row, __m256 y) {
  const int outputs = call.outputs - half * kLanes;
  float* to = call.y + row * call.y_stride + half * kLanes;
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(outputs), lanes);
  if (call.bias != nullptr) y = _mm256_add_ps(y, _mm256_maskload_ps(call.bias + half * kLanes, mask));
  _mm256_maskstore_ps(to, mask, y);
}

// What the dot product of a row and part `part` of a block begins with: minus the weights' offset times the row's sum.
template <class B>
HWY_INLINE __m256i StartOfDot(const ActBlock& x, int part) {
  if constexpr (B::kOffset == 0) return _mm256_setzero_si256();
  const int32_t sum = !B::kTwoScales ? x.neg_sum : part == 0 ? x.neg_sum_low : x.neg_sum - x.neg_sum_low;
  return _mm256_slli_epi32(_mm256_set1_epi32(sum), B::kOffsetShift);
}

// Rows [row, row + kRows): weights are unpacked into registers as they stream past, a half at a time.
template <class Dots, DType kType, int kRows>
HWY_INLINE void FewRows(const PanelCall& call, int row, int half) {
  using B = Block<kType, Dots::kSignedBytes>;
  const int64_t blocks = call.in / kBlock;
  const ActBlock* x = call.x8 + row * blocks;
  __m256 y[kRows];
  for (int r = 0; r < kRows; ++r) y[r] = _mm256_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b, x += kRows) {
    const B block(*call.layout, call.panel, b, half);
    if (call.prefetch && row == 0 && half == 0) B::Prefetch(call.panel, b);
    for (int part = 0; part < B::kParts; ++part) {
      __m256i dot[kRows];
      for (int r = 0; r < kRows; ++r) dot[r] = StartOfDot<B>(x[r], part);
      Dots::template Add<B, kRows, 8 / B::kParts>([&](int g) { return block.Group(g); }, x, 8 / B::kParts * part, dot);
      const __m256 d = block.Scale(part);
      for (int r = 0; r < kRows; ++r) {
        y[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[r]), _mm256_mul_ps(d, _mm256_set1_ps(x[r].scale)), y[r]);
      }
    }
    if constexpr (B::kHasMinimum) {
      const __m256 m = block.Minimum();
      for (int r = 0; r < kRows; ++r) y[r] = _mm256_fmadd_ps(m, _mm256_set1_ps(x[r].scaled_sum), y[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) Store(call, half, row + r, y[r]);
}

// Blocks [0, blocks) of unpacked weights times kRows rows, added to y [kRows][16]; x [blocks][kRows].
template <class Dots, class B, int kRows>
HWY_INLINE void AddUnpacked(const Unpacked<B>* weights, int64_t blocks, const ActBlock* x, float* sums) {
  for (int half = 0; half < 2; ++half) {
    __m256 y[kRows];
    for (int r = 0; r < kRows; ++r) y[r] = _mm256_load_ps(sums + r * kPanel + half * kLanes);
    const ActBlock* at = x;
    for (int64_t b = 0; b < blocks; ++b, at += kRows) {
      const Unpacked<B>& w = weights[b];
      for (int part = 0; part < B::kParts; ++part) {
        __m256i dot[kRows];
        for (int r = 0; r < kRows; ++r) dot[r] = StartOfDot<B>(at[r], part);
        Dots::template Add<B, kRows, 8 / B::kParts>([&](int g) { return w.groups[g][half]; }, at, 8 / B::kParts * part,
                                                    dot);
        const __m256 d = w.scales[part][half];
        for (int r = 0; r < kRows; ++r) {
          y[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[r]), _mm256_mul_ps(d, _mm256_set1_ps(at[r].scale)), y[r]);
        }
      }
      if constexpr (B::kHasMinimum) {
        for (int r = 0; r < kRows; ++r) y[r] = _mm256_fmadd_ps(w.minimum[half], _mm256_set1_ps(at[r].scaled_sum), y[r]);
      }
    }
    for (int r = 0; r < kRows; ++r) _mm256_store_ps(sums + r * kPanel + half * kLanes, y[r]);
  }
}

// More rows of weights that are dear to unpack: a run of blocks is unpacked once, and stays in the first-level cache
// while rows pass by in fours.
template <class Dots, DType kType>
HWY_INLINE void ManyRows(const PanelCall& call) {
  using B = Block<kType, Dots::kSignedBytes>;
  constexpr int64_t kRun = 16;
  Unpacked<B> weights[kRun];
  alignas(32) float sums[kMaxInt8Rows * kPanel] = {};
  const int64_t blocks = call.in / kBlock;
  for (int64_t begin = 0; begin < blocks; begin += kRun) {
    const int64_t count = begin + kRun < blocks ? kRun : blocks - begin;
    for (int64_t b = 0; b < count; ++b) {
      if (call.prefetch) B::Prefetch(call.panel, begin + b);
      for (int half = 0; half < 2; ++half) {
        const B block(*call.layout, call.panel, begin + b, half);
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g) weights[b].groups[g][half] = block.Group(g);
        for (int part = 0; part < B::kParts; ++part) weights[b].scales[part][half] = block.Scale(part);
        if constexpr (B::kHasMinimum) weights[b].minimum[half] = block.Minimum();
      }
    }
    for (int row = 0; row < call.rows; row += kRowsAtOnce) {
      WithRows<kRowsAtOnce>(call.rows - row, [&]<int kRows>() {
        AddUnpacked<Dots, B, kRows>(weights, count, call.x8 + row * blocks + begin * kRows, sums + row * kPanel);
      });
    }
  }
  for (int row = 0; row < call.rows; ++row) {
    for (int half = 0; half < 2; ++half) Store(call, half, row, _mm256_load_ps(sums + row * kPanel + half * kLanes));
  }
}

template <class Dots>
HWY_INLINE void MultiplyInt8(const PanelCall& call) {
  WithQuantized(call.dtype, [&]<DType kType>() {
    if (Planes(kType).high != 0 && call.rows > kRowsAtOnce) return ManyRows<Dots, kType>(call);
    for (int row = 0; row < call.rows; row += kRowsAtOnce) {
      WithRows<kRowsAtOnce>(call.rows - row, [&]<int kRows>() {
        for (int half = 0; half < 2; ++half) FewRows<Dots, kType, kRows>(call, row, half);
      });
    }
  });
}
