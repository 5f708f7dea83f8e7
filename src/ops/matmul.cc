#include "ops/matmul.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

#include "base/isa.h"
#include "base/simd_targets.h"
#include "hwy/targets.h"
#include "ops/gemm.h"
#include "ops/gemm_isa.h"
#include "ops/matmul_kernels.h"
#include "ops/panel.h"
#include "ops/ranges.h"
#include "tensor/quantize.h"

namespace cambium {
namespace {

// Matrices of a model lie side by side in slabs, so that small ones are in huge pages too and prefetching runs from one
// into the next: 1.5 times the bandwidth of a block each. A slab lives as long as a matrix in it.
std::pair<std::shared_ptr<Buffer>, uint8_t*> AllocatePanels(size_t bytes) {
  constexpr size_t kSlab = size_t{32} << 20, kSmall = size_t{64} << 10;
  if (bytes < kSmall || bytes > kSlab / 4) {
    auto own = std::make_shared<Buffer>(bytes);
    return {own, own->as<uint8_t>()};
  }
  static std::mutex mutex;
  static std::weak_ptr<Buffer> current;
  static size_t used = 0;
  const std::lock_guard lock(mutex);
  std::shared_ptr<Buffer> slab = current.lock();
  if (slab == nullptr || used + bytes > slab->bytes()) {
    slab = std::make_shared<Buffer>(kSlab);
    current = slab;
    used = 0;
  }
  uint8_t* panels = slab->as<uint8_t>() + used;
  used += bytes;  // panels are whole cache lines
  return {slab, panels};
}

// Packs panels [begin, end) in parallel; source row of packed row r is row_order[r], or r.
void PackPanels(ThreadPool& pool, Tensor weights, std::span<const int32_t> row_order, int64_t begin, int64_t end,
                uint8_t* panels) {
  const int64_t out = weights.rows(), in = weights.columns();
  const int64_t panel_bytes = PanelLayout(weights.dtype, in).bytes, row_bytes = weights.row_bytes();
  pool.Run(end - begin, [&](int64_t task, int) {
    const int64_t panel = begin + task;
    const uint8_t* rows[kPanel] = {};
    for (int o = 0; o < kPanel && panel * kPanel + o < out; ++o) {
      const int64_t row = panel * kPanel + o;
      rows[o] = weights.as<const uint8_t>() + (row_order.empty() ? row : row_order[row]) * row_bytes;
    }
    PackPanel(weights.dtype, in, rows, panels + panel * panel_bytes);
  });
}

// Rows from which decoding a quantised weight once for all of them pays. Below, and for weights that need no decoding,
// the f32 kernels stream the weights past the rows. Both sum in the same order, so the cut shows in no result.
constexpr int64_t kDecodeRows = 8;
// Rows up to which bf16 weights stream past in pairs; above, the dense product's larger tiles pay. The chains are the
// same.
constexpr int64_t kPairRows = 64;
// Activations of a chunk of rows stay in the second-level cache while panels pass by.
constexpr int64_t kChunkBytes = int64_t{256} << 10;

// A [rows, in] matrix of activations.
struct Activations {
  const ActBlock* x8 = nullptr;     // int8_group rows after another, each [in / 32][rows of the group]
  const float* x = nullptr;         // [rows][in]
  const uint32_t* pairs = nullptr;  // [rows][BF16Words(in)]

  int64_t GroupRows(const KernelTable& kernels) const {
    return x8 != nullptr ? kernels.max_int8_rows : pairs != nullptr ? kernels.max_pair_rows : kernels.max_f32_rows;
  }
};

const float* RowsAsF32(ThreadPool& pool, Workspace& workspace, Tensor x) {
  if (x.dtype == DType::kF32) return x.f32();
  const int64_t in = x.columns();
  float* to = workspace.Array<float>(x.size());
  ForRows(pool, x.rows(), in, [&](int64_t begin, int64_t end) {
    const char* from = x.as<const char>() + begin * x.row_bytes();
    Dequantize(x.dtype, from, to + begin * in, (end - begin) * in);
  });
  return to;
}

const uint32_t* RowsAsPairs(ThreadPool& pool, Workspace& workspace, const KernelTable& kernels, const float* x,
                            int64_t rows, int64_t in) {
  const int64_t words = BF16Words(in);
  uint32_t* to = workspace.Array<uint32_t>(rows * words);
  ForRows(pool, rows, in, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) kernels.to_pairs(x + row * in, in, to + row * words);
  });
  return to;
}

const ActBlock* QuantizeRows(ThreadPool& pool, Workspace& workspace, const KernelTable& kernels, const float* x,
                             int64_t rows, int64_t in) {
  const int64_t blocks = in / kBlock, group = kernels.int8_group;
  ActBlock* to = workspace.Array<ActBlock>(rows * blocks);
  ForRows(pool, (rows + group - 1) / group, group * in, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin * group; row < std::min(rows, end * group); ++row) {
      const int64_t first = row / group * group, width = std::min(group, rows - first);
      kernels.quantize(x + row * in, blocks, to + first * blocks + (row - first), width);
    }
  });
  return to;
}

// A run of panels, counted through all products of a call.
struct PanelRange {
  int64_t begin, end;
};

// Two equal runs a thread, so that one held up can leave its second run to the others. Not shorter: a run begins with
// panels that nobody has fetched ahead, and what is fetched beyond its end is for another core. Measured on SmolLM2
// Q4_1, two threads: 2.4 ms a token; with runs that shrink to single panels 2.8. How panels fall into runs depends on
// the thread count, what is summed does not.
std::vector<PanelRange> CutPanels(int64_t panels, int threads) {
  const int64_t runs = 2 * threads, count = std::max<int64_t>(1, (panels + runs - 1) / runs);
  std::vector<PanelRange> ranges;
  for (int64_t begin = 0; begin < panels; begin += count) ranges.push_back({begin, std::min(panels, begin + count)});
  return ranges;
}

// y rows [row_begin, row_end) of the given panels.
void MultiplyPanels(const KernelTable& kernels, std::span<const Product> products, const Activations& activations,
                    int64_t in, int64_t rows, int64_t row_begin, int64_t row_end, PanelRange range) {
  const int64_t group = activations.GroupRows(kernels);
  int64_t first = 0;  // of this product, in the count through all products
  for (const Product& product : products) {
    const PackedMatrix& w = *product.w;
    const PanelLayout layout(w.dtype(), in);
    const int64_t panels = Panels(w.out());
    const int64_t begin = std::max<int64_t>(0, range.begin - first), end = std::min(panels, range.end - first);
    for (int64_t p = begin; p < end; ++p) {
      const uint8_t* panel = w.panels() + p * layout.bytes;
      PanelCall call = {.dtype = w.dtype(),
                        .rows = 0,
                        .panel = panel,
                        .layout = &layout,
                        .in = in,
                        .x8 = nullptr,
                        .x = nullptr,
                        .y = nullptr,
                        .y_stride = product.y.columns(),
                        .bias = product.bias == nullptr ? nullptr : product.bias + p * kPanel,
                        .outputs = static_cast<int>(std::min<int64_t>(kPanel, w.out() - p * kPanel)),
                        .prefetch = true};
      for (int64_t row = row_begin; row < row_end; row += group) {
        call.rows = static_cast<int>(std::min(group, rows - row));
        call.y = product.y.f32() + row * call.y_stride + p * kPanel;
        if (activations.x8 != nullptr) {
          call.x8 = activations.x8 + row * (in / kBlock);
          kernels.int8(call);
        } else if (activations.pairs != nullptr) {
          call.pairs = activations.pairs + row * BF16Words(in);
          kernels.bf16(call);
        } else {
          call.x = activations.x + row * in;
          kernels.f32(call);
        }
        call.prefetch = false;
      }
    }
    first += panels;
  }
}

void MultiplyAll(ThreadPool& pool, const KernelTable& kernels, std::span<const Product> products,
                 const Activations& activations, int64_t in, int64_t rows) {
  int64_t panels = 0;
  for (const Product& product : products) panels += Panels(product.w->out());
  const std::vector<PanelRange> ranges = CutPanels(panels, pool.threads());
  const int64_t group = activations.GroupRows(kernels);
  const int64_t count = static_cast<int64_t>(ranges.size());
  const int64_t row_bytes = activations.x8 != nullptr ? in / kBlock * static_cast<int64_t>(sizeof(ActBlock)) : in * 4;
  const int64_t chunk = std::max<int64_t>(1, kChunkBytes / std::max<int64_t>(1, group * row_bytes)) * group;
  pool.Run((rows + chunk - 1) / chunk * count, [&](int64_t task, int) {
    const int64_t row = task / count * chunk;
    MultiplyPanels(kernels, products, activations, in, rows, row, std::min(rows, row + chunk), ranges[task % count]);
  });
}

}  // namespace

const KernelTable& Kernels() {
#if HWY_ARCH_X86
  const int64_t best = ChosenTarget();
  static const KernelTable tiles = [] {
    KernelTable table = kAvx512Kernels;
    table.bf16 = BF16Tiles;
    table.max_pair_rows = kBF16TileRows;
    return table;
  }();
  if (best == HWY_CHOSEN_TARGET_SHIFT(HWY_AVX3_DL)) return HasAmx() ? tiles : kAvx512Kernels;
  static const auto with_int8 = [](auto int8) {
    KernelTable table = kAvx2Kernels;
    table.int8 = int8;
    return table;
  };
  static const KernelTable avx_vnni = with_int8(Int8AvxVnni), avx512_vnni = with_int8(Int8Avx512Vnni256);
  if (best == HWY_CHOSEN_TARGET_SHIFT(HWY_AVX2)) {
    switch (GetVnni256()) {
      case Vnni256::kVex:
        return avx_vnni;
      case Vnni256::kEvex:
        return avx512_vnni;
      case Vnni256::kNone:
        return kAvx2Kernels;
    }
  }
#endif
  return kPortableKernels;
}

void MatMul(ThreadPool& pool, Workspace& workspace, Compute compute, Tensor x, std::span<const Product> products) {
  const int64_t rows = x.rows(), in = x.columns();
  const KernelTable& kernels = Kernels();
  const bool pairs = compute == Compute::kInt8 && kernels.bf16 != nullptr && gemm::BF16Isa().k_per_word == 2;
  std::vector<Product> integer, paired, streamed, decoded;
  for (const Product& product : products) {
    Check(product.w->in() == in && product.y.rows() == rows && product.y.columns() == product.w->out(),
          "a product is [rows, in] by [out, in]");
    if (compute == Compute::kInt8 && IsQuantized(product.w->dtype())) {
      integer.push_back(product);
    } else if (pairs && product.w->dtype() == DType::kBF16) {
      paired.push_back(product);
    } else {
      const bool stream = compute != Compute::kBF16 && (rows <= kDecodeRows || !IsQuantized(product.w->dtype()));
      (stream ? streamed : decoded).push_back(product);
    }
  }
  if (rows == 0) return;
  const Workspace::Mark mark = workspace.GetMark();
  if (!paired.empty() && rows > kPairRows) {
    DenseMatMul(pool, workspace, Compute::kBF16, x, paired);
    paired.clear();
  }
  if (!integer.empty() || !paired.empty() || !streamed.empty()) {
    const float* f32 = RowsAsF32(pool, workspace, x);
    if (!integer.empty()) {
      const ActBlock* x8 = QuantizeRows(pool, workspace, kernels, f32, rows, in);
      MultiplyAll(pool, kernels, integer, {.x8 = x8}, in, rows);
    }
    if (!paired.empty()) {
      const uint32_t* words = RowsAsPairs(pool, workspace, kernels, f32, rows, in);
      MultiplyAll(pool, kernels, paired, {.pairs = words}, in, rows);
    }
    if (!streamed.empty()) MultiplyAll(pool, kernels, streamed, {.x = f32}, in, rows);
  }
  if (!decoded.empty()) DenseMatMul(pool, workspace, compute, x, decoded);
  workspace.Release(mark);
}

PackedMatrix::PackedMatrix(ThreadPool& pool, Tensor weights, std::span<const int32_t> row_order,
                           void (*release)(void* context, int64_t row, int64_t rows), void* context)
    : out_(weights.rows()), in_(weights.columns()), dtype_(weights.dtype) {
  Check(dtype_ != DType::kI32 && dtype_ != DType::kI64, "weights are not integers");
  Check(in_ % Info(dtype_).block == 0, "a row of weights is whole blocks");
  Check(row_order.empty() || static_cast<int64_t>(row_order.size()) == out_, "row_order names every row once");
  const int64_t panels = Panels(out_), panel_bytes = PanelLayout(dtype_, in_).bytes;
  bytes_ = panels * panel_bytes;
  std::tie(memory_, panels_) = AllocatePanels(static_cast<size_t>(bytes_));
  // Without a permutation the source is given back in pieces, so that the two copies never exist together.
  constexpr int64_t kPieceBytes = int64_t{4} << 20;
  const int64_t piece =
      row_order.empty() ? std::max<int64_t>(1, kPieceBytes / std::max<int64_t>(1, panel_bytes)) : panels;
  for (int64_t begin = 0; begin < panels; begin += piece) {
    const int64_t end = std::min(panels, begin + piece);
    PackPanels(pool, weights, row_order, begin, end, panels_);
    if (release != nullptr) release(context, begin * kPanel, std::min(out_, end * kPanel) - begin * kPanel);
  }
}

void PackedMatrix::UnpackRow(int64_t row, float* dst) const {
  const int64_t panel_bytes = PanelLayout(dtype_, in_).bytes;
  const uint8_t* panel = panels() + row / kPanel * panel_bytes;
  DecodePanelRow(dtype_, in_, panel, static_cast<int>(row % kPanel), dst);
}

void PackedMatrix::Unpack(ThreadPool& pool, Tensor dst) const {
  Check(dst.rows() == out_ && dst.columns() == in_, "Unpack fills [out, in]");
  pool.Run(Panels(out_), [&](int64_t panel, int) {
    for (int64_t row = panel * kPanel; row < std::min(out_, (panel + 1) * kPanel); ++row) UnpackRow(row, dst.row(row));
  });
}

void PackedMatrix::Repack(ThreadPool& pool, Tensor weights) {
  Check(!IsQuantized(dtype_) && weights.dtype == DType::kF32, "Repack turns f32 values into a dense type");
  Check(weights.rows() == out_ && weights.columns() == in_, "Repack keeps the shape");
  const int64_t panel_bytes = PanelLayout(dtype_, in_).bytes;
  pool.Run(Panels(out_), [&](int64_t panel, int) {
    const float* rows[kPanel] = {};
    for (int o = 0; o < kPanel && panel * kPanel + o < out_; ++o) rows[o] = weights.row(panel * kPanel + o);
    RoundPanel(dtype_, in_, rows, panels_ + panel * panel_bytes);
  });
}

}  // namespace cambium
