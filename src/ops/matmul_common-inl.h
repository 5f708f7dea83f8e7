// Parts of the kernels that each instruction set compiles for itself. Included inside a namespace and inside that
// set's target attributes; no include guard for that reason.

inline void QuantizeBlocks(const float* x, int64_t blocks, ActBlock* to, int64_t stride) noexcept {
  for (int64_t b = 0; b < blocks; ++b, x += kBlock, to += stride) {
    // Magnitudes compare as integers, and NaN is the greatest: it must reach the scale.
    int32_t greatest = 0;
    for (int i = 0; i < kBlock; ++i) {
      const int32_t magnitude = std::bit_cast<int32_t>(x[i]) & 0x7FFFFFFF;
      greatest = magnitude > greatest ? magnitude : greatest;
    }
    const float amax = std::bit_cast<float>(greatest);
    const float scale = amax / 127.0f;
    // A block of subnormals has no finite 127 / amax; it counts as zero.
    const float inverse = amax >= 0x1p-120f ? 127.0f / amax : 0.0f;
    constexpr float kRound = 12582912.0f;  // adding 1.5 * 2^23 rounds to nearest even and leaves the integer below
    int32_t low = 0, high = 0;
    for (int i = 0; i < 16; ++i) {
      const int32_t q = std::bit_cast<int32_t>(x[i] * inverse + kRound) - std::bit_cast<int32_t>(kRound);
      to->q[i] = static_cast<int8_t>(q);
      low += static_cast<int8_t>(q);
    }
    for (int i = 16; i < kBlock; ++i) {
      const int32_t q = std::bit_cast<int32_t>(x[i] * inverse + kRound) - std::bit_cast<int32_t>(kRound);
      to->q[i] = static_cast<int8_t>(q);
      high += static_cast<int8_t>(q);
    }
    to->scale = scale;
    to->scaled_sum = scale * static_cast<float>(low + high);
    to->neg_sum = -(low + high);
    to->neg_sum_low = -low;
  }
}

// Calls f.operator()<rows>() for a row count known only now.
template <int kMaxRows, class F>
inline void WithRows(int rows, const F& f) {
  if constexpr (kMaxRows > 1) {
    if (rows < kMaxRows) return WithRows<kMaxRows - 1>(rows, f);
  }
  f.template operator()<kMaxRows>();
}

// Calls f.operator()<dtype>() for a type known only now.
template <class F>
inline void WithQuantized(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kQ8_0: return f.template operator()<DType::kQ8_0>();
    case DType::kQ4_0: return f.template operator()<DType::kQ4_0>();
    case DType::kQ4_1: return f.template operator()<DType::kQ4_1>();
    case DType::kQ5_0: return f.template operator()<DType::kQ5_0>();
    case DType::kQ5_1: return f.template operator()<DType::kQ5_1>();
    case DType::kQ4_K: return f.template operator()<DType::kQ4_K>();
    case DType::kQ5_K: return f.template operator()<DType::kQ5_K>();
    case DType::kQ6_K: return f.template operator()<DType::kQ6_K>();
    default: return;
  }
}

// Calls f.operator()<dtype>() for every type that weights may have.
template <class F>
inline void WithStored(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kF32: return f.template operator()<DType::kF32>();
    case DType::kF16: return f.template operator()<DType::kF16>();
    case DType::kBF16: return f.template operator()<DType::kBF16>();
    default: return WithQuantized(dtype, f);
  }
}
