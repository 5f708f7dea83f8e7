#include "ops/matmul.h"

#include <algorithm>
#include <memory>
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

// One product of rows [begin, begin + count) of the activations.
struct Job {
  int64_t begin, count;
  const Product* product;
  std::shared_ptr<const uint8_t> panels;
};

// Quantises the rows of each group, [begin, begin + count), by themselves: a kernel takes int8_group rows of one group.
const ActBlock* QuantizeRows(ThreadPool& pool, Workspace& workspace, const KernelTable& kernels, Tensor x,
                             const float* f32, std::span<const RowProducts> groups) {
  const int64_t in = x.columns(), blocks = in / kBlock, width = kernels.int8_group;
  ActBlock* to = workspace.Array<ActBlock>(x.rows() * blocks);
  struct Rows {
    int64_t begin, count;  // interleaved
  };
  std::vector<Rows> all;
  for (const RowProducts& group : groups) {
    for (int64_t row = 0; row < group.count; row += width) {
      all.push_back({group.begin + row, std::min(width, group.count - row)});
    }
  }
  ForRows(pool, static_cast<int64_t>(all.size()), x.size() / std::max<int64_t>(1, static_cast<int64_t>(all.size())),
          [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
              const Rows rows = all[static_cast<size_t>(i)];
              for (int64_t r = 0; r < rows.count; ++r) {
                kernels.quantize(f32 + (rows.begin + r) * in, blocks, to + rows.begin * blocks + r, rows.count);
              }
            }
          });
  return to;
}

// A run of panels, counted through all jobs of a call.
struct PanelRange {
  int64_t begin, end;
};

// Two equal runs a thread, so that one held up can leave its second run to the others. Not shorter: a run begins with
// panels that nobody has fetched ahead, and what is fetched beyond its end is for another core. Measured on SmolLM2
// Q4_1, two threads: 2.4 ms a token; with runs that shrink to single panels 2.8. A panel counts as often as it meets a
// group of `group` rows. How panels fall into runs depends on the thread count, what is summed does not.
std::vector<PanelRange> CutPanels(std::span<const Job> jobs, int64_t group, int threads) {
  const auto cost_of = [&](const Job& job) { return (job.count + group - 1) / group; };
  int64_t cost = 0;
  for (const Job& job : jobs) cost += Panels(job.product->w->out()) * cost_of(job);
  const int64_t runs = 2 * threads, share = std::max<int64_t>(1, (cost + runs - 1) / runs);
  std::vector<PanelRange> ranges;
  int64_t begin = 0, end = 0, spent = 0;
  for (const Job& job : jobs) {
    for (int64_t left = Panels(job.product->w->out()); left > 0;) {
      const int64_t each = cost_of(job), count = std::min(left, (share - spent + each - 1) / each);
      end += count;
      left -= count;
      spent += count * each;
      if (spent < share) continue;
      ranges.push_back({begin, end});
      begin = end;
      spent = 0;
    }
  }
  if (begin < end) ranges.push_back({begin, end});
  return ranges;
}

// y rows [row_begin, row_end), as far as a job has them, of the given panels.
void MultiplyPanels(const KernelTable& kernels, std::span<const Job> jobs, const Activations& activations, int64_t in,
                    int64_t row_begin, int64_t row_end, PanelRange range) {
  const int64_t group = activations.GroupRows(kernels);
  int64_t first = 0;  // of this job, in the count through all jobs
  for (const Job& job : jobs) {
    const Product& product = *job.product;
    const PackedMatrix& w = *product.w;
    const PanelLayout layout(w.dtype(), in);
    const int64_t panels = Panels(w.out());
    const int64_t begin = std::max<int64_t>(0, range.begin - first), end = std::min(panels, range.end - first);
    const int64_t last_row = std::min(row_end, job.count);
    for (int64_t p = begin; p < end; ++p) {
      const uint8_t* panel = job.panels.get() + p * layout.bytes;
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
      for (int64_t row = row_begin; row < last_row; row += group) {
        call.rows = static_cast<int>(std::min(group, job.count - row));
        call.y = product.y.f32() + row * call.y_stride + p * kPanel;
        const int64_t at = job.begin + row;
        if (activations.x8 != nullptr) {
          call.x8 = activations.x8 + at * (in / kBlock);
          kernels.int8(call);
        } else if (activations.pairs != nullptr) {
          call.pairs = activations.pairs + at * BF16Words(in);
          kernels.bf16(call);
        } else {
          call.x = activations.x + at * in;
          kernels.f32(call);
        }
        call.prefetch = false;
      }
    }
    first += panels;
  }
}

void MultiplyAll(ThreadPool& pool, const KernelTable& kernels, std::span<const Job> jobs,
                 const Activations& activations, int64_t in) {
  int64_t rows = 0;
  for (const Job& job : jobs) rows = std::max(rows, job.count);
  const int64_t group = activations.GroupRows(kernels);
  const std::vector<PanelRange> ranges = CutPanels(jobs, group, pool.threads());
  const int64_t count = static_cast<int64_t>(ranges.size());
  const int64_t row_bytes = activations.x8 != nullptr ? in / kBlock * static_cast<int64_t>(sizeof(ActBlock)) : in * 4;
  const int64_t chunk = std::max<int64_t>(1, kChunkBytes / std::max<int64_t>(1, group * row_bytes)) * group;
  pool.Run((rows + chunk - 1) / chunk * count, [&](int64_t task, int) {
    const int64_t row = task / count * chunk;
    MultiplyPanels(kernels, jobs, activations, in, row, std::min(rows, row + chunk),
                   ranges[static_cast<size_t>(task % count)]);
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
  const RowProducts all = {0, x.rows(), products};
  MatMulGroups(pool, workspace, compute, x, {&all, 1});
}

void MatMulGroups(ThreadPool& pool, Workspace& workspace, Compute compute, Tensor x,
                  std::span<const RowProducts> groups) {
  const int64_t in = x.columns();
  const KernelTable& kernels = Kernels();
  const bool pairs = compute == Compute::kInt8 && kernels.bf16 != nullptr && gemm::BF16Isa().k_per_word == 2;
  std::vector<Job> integer, paired, streamed;
  const Workspace::Mark mark = workspace.GetMark();
  for (const RowProducts& group : groups) {
    if (group.count == 0) continue;
    std::vector<Product> decoded, wide;  // wide: pairs of bf16 for many rows
    for (const Product& product : group.products) {
      const DType dtype = product.w->dtype();
      Check(product.w->in() == in && product.y.rows() == group.count && product.y.columns() == product.w->out(),
            "a product is [rows, in] by [out, in]");
      Job job = {group.begin, group.count, &product, nullptr};
      if (compute == Compute::kInt8 && IsQuantized(dtype)) {
        integer.push_back(std::move(job));
      } else if (pairs && dtype == DType::kBF16) {
        if (group.count > kPairRows) {
          wide.push_back(product);
        } else {
          paired.push_back(std::move(job));
        }
      } else if (compute != Compute::kBF16 && (group.count <= kDecodeRows || !IsQuantized(dtype))) {
        streamed.push_back(std::move(job));
      } else {
        decoded.push_back(product);
      }
    }
    const Tensor rows = x.Rows(group.begin, group.count);
    if (!wide.empty()) DenseMatMul(pool, workspace, Compute::kBF16, rows, wide);
    if (!decoded.empty()) DenseMatMul(pool, workspace, compute, rows, decoded);
  }
  for (std::vector<Job>* jobs : {&integer, &paired, &streamed}) {
    for (Job& job : *jobs) job.panels = job.product->w->Panels(pool);
  }
  if (!integer.empty() || !paired.empty() || !streamed.empty()) {
    const float* f32 = RowsAsF32(pool, workspace, x);
    if (!integer.empty()) {
      const ActBlock* x8 = QuantizeRows(pool, workspace, kernels, x, f32, groups);
      MultiplyAll(pool, kernels, integer, {.x8 = x8}, in);
    }
    if (!paired.empty()) {
      const uint32_t* words = RowsAsPairs(pool, workspace, kernels, f32, x.rows(), in);
      MultiplyAll(pool, kernels, paired, {.pairs = words}, in);
    }
    if (!streamed.empty()) MultiplyAll(pool, kernels, streamed, {.x = f32}, in);
  }
  workspace.Release(mark);
}

}  // namespace cambium
