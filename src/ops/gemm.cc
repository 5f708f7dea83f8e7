#include "ops/gemm.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "ops/gemm_isa.h"
#include "ops/panel.h"

namespace cambium {
namespace {

using gemm::Isa;
using gemm::kMaxMr;
using gemm::kMaxNr;
using gemm::kPanelColumns;
using gemm::Source;
using gemm::Tile;

// A k block of an a panel fits L1, a tile of b (kTileColumns wide) a good part of L2. Blocks start at multiples of 32:
// of quantised blocks, of bf16 pairs, of two weight panels.
constexpr int64_t kTileColumns = 96;
constexpr int64_t kKUnit = 32;
constexpr int64_t kEnoughTasks = 16;
constexpr int64_t kPackRows = 112;  // of a, in a task
// Floats of decoded weights that wait to be packed.
constexpr int64_t kScratch = 2 * kTileColumns * gemm::kPanelColumns;
// Bound on the packed part of a, in words.
constexpr int64_t kPackedWords = int64_t{8} << 20;

constexpr int64_t Ceil(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

// One side of a product: lines (rows of a, columns of b) by k.
struct Operand {
  enum Kind { kDense, kWeightsByOutput, kWeightsByInput } kind = kDense;
  Tensor dense;         // kDense
  bool k_minor = true;  // dense is [lines, k], else [k, lines]
  const PackedMatrix* w = nullptr;
  const uint8_t* panels = nullptr;  // its, which the caller holds
};

struct Job {
  Operand b;
  int64_t columns;
  float* c;
  int64_t c_stride;
  const float* bias = nullptr;
  float* sums = nullptr;    // [rows, columns] between k blocks; null: c itself
  bool transposed = false;  // c is [columns, rows], c_stride apart
};

// Packs lines [line, line + lines) by k into panels of `width` lines, `panel_words` apart. Where k runs across the
// lines of memory, it advances in steps over all panels, so that each stretch of memory is read once, while it is near.
void PackDense(const Isa& isa, const gemm::Packing& packing, const Operand& operand, int64_t line, int64_t lines,
               int64_t k0, int64_t k, int width, int stride, int64_t panel_words, uint32_t* panels) {
  const Tensor& t = operand.dense;
  const int64_t line_stride = t.columns(), element = Info(t.dtype).bytes;
  const int64_t step = operand.k_minor ? k : kKUnit;
  for (int64_t i = 0; i < k; i += step) {
    for (int64_t done = 0; done < lines; done += width) {
      const int64_t first = line + done;
      const int64_t offset = operand.k_minor ? first * line_stride + k0 : (k0 + i) * line_stride + first;
      const Source source{t.as<uint8_t>() + offset * element, t.dtype, line_stride, t.size() - offset};
      (operand.k_minor ? packing.k_minor : packing.k_major)(
          source, static_cast<int>(std::min<int64_t>(width, lines - done)), std::min(step, k - i), stride,
          panels + done / width * panel_words + i / isa.k_per_word * stride);
    }
  }
}

// Packs columns [column, column + columns) of weights into panels `panel_words` apart; scratch holds kScratch floats.
void PackWeights(const Isa& isa, const Operand& operand, int64_t column, int64_t columns, int64_t k0, int64_t k,
                 int64_t panel_words, uint32_t* panels, float* scratch) {
  const PackedMatrix& w = *operand.w;
  const DType dtype = w.dtype();
  const PanelLayout layout(dtype, w.in());
  const auto panel = [&](int64_t index) { return operand.panels + index * layout.bytes; };
  const int64_t element = IsQuantized(dtype) ? 0 : Info(dtype).bytes;
  const int64_t end_panel = Ceil(columns, kPanelColumns);

  if (operand.kind == Operand::kWeightsByOutput) {
    for (int64_t p = 0; p < end_panel; ++p) {
      const uint8_t* from = panel(column / kPanelColumns + p);
      uint32_t* to = panels + p * panel_words;
      if (element != 0) {
        isa.b.k_major({from + k0 * kPanelColumns * element, dtype, kPanelColumns, k * kPanelColumns}, kPanelColumns, k,
                      kPanelColumns, to);
        continue;
      }
      if (isa.exact) {
        DecodePanel(dtype, w.in(), from, k0, k, reinterpret_cast<float*>(to));
        continue;
      }
      constexpr int64_t kStep = kScratch / kPanelColumns;
      for (int64_t i = 0; i < k; i += kStep) {
        const int64_t count = std::min(kStep, k - i);
        DecodePanel(dtype, w.in(), from, k0 + i, count, scratch);
        isa.b.k_major({scratch, DType::kF32, kPanelColumns, count * kPanelColumns}, kPanelColumns, count, kPanelColumns,
                      to + i / isa.k_per_word * kPanelColumns);
      }
    }
    return;
  }
  // Two weight panels at a time, so that 32 summands fill a vector of bf16 pairs.
  for (int64_t i = 0; i < k; i += 2 * kPanelColumns) {
    const int64_t count = std::min<int64_t>(2 * kPanelColumns, k - i), first = (k0 + i) / kPanelColumns;
    Source source{scratch, DType::kF32, kPanelColumns, kScratch, kTileColumns * kPanelColumns};
    if (element != 0) {
      source = {panel(first) + column * kPanelColumns * element, dtype, kPanelColumns, columns * kPanelColumns,
                layout.bytes / element};
    } else {
      for (int64_t half = 0; half < Ceil(count, kPanelColumns); ++half) {
        DecodePanel(dtype, w.in(), panel(first + half), column, columns, scratch + half * source.k16);
      }
    }
    for (int64_t p = 0; p < end_panel; ++p) {
      const int lines = static_cast<int>(std::min<int64_t>(kPanelColumns, columns - p * kPanelColumns));
      isa.b.k_minor(source, lines, count, kPanelColumns, panels + p * panel_words + i / isa.k_per_word * kPanelColumns);
      source.data = static_cast<const uint8_t*>(source.data) +
                    kPanelColumns * kPanelColumns * (element != 0 ? element : int64_t{sizeof(float)});
    }
  }
}

void PackColumns(const Isa& isa, const Operand& operand, int64_t column, int64_t columns, int64_t k0, int64_t k,
                 int64_t panel_words, uint32_t* panels, float* scratch) {
  if (operand.kind != Operand::kDense) {
    return PackWeights(isa, operand, column, columns, k0, k, panel_words, panels, scratch);
  }
  PackDense(isa, isa.b, operand, column, columns, k0, k, kPanelColumns, kPanelColumns, panel_words, panels);
}

struct Plan {
  const Isa& isa;
  Operand a;
  int64_t rows, k;
  float alpha = 1.0f, beta = 0.0f;
  bool carry = false;  // one chain over all of k, as few rows have it in MatMul; else the k blocks add up
};

// Where the tiles of one k block take their sums from and put them. Full tiles run in place; partial and transposed
// ones, and those with an epilogue, through a buffer.
class Destination {
 public:
  Destination(const Plan& plan, const Job& job, bool first, bool last)
      : isa_(plan.isa),
        job_(job),
        alpha_(plan.alpha),
        beta_(plan.beta),
        carry_(plan.carry),
        first_(first),
        last_(last) {
    plain_ = alpha_ == 1.0f && beta_ == 0.0f && job.bias == nullptr;
    sums_ = job.sums != nullptr ? job.sums : job.c;
    sums_stride_ = job.sums == nullptr ? job.c_stride : job.transposed ? plan.rows : job.columns;
  }

  // Completes `tile`; a copy would wait until the stores of the tile before are done.
  void Run(Tile& tile, int64_t row, int64_t column) const {
    float* sums = sums_ + Offset(sums_stride_, row, column);
    float* c = job_.c + Offset(job_.c_stride, row, column);
    const bool whole = !job_.transposed && (tile.columns == isa_.nr || 2 * tile.columns == isa_.nr);
    alignas(64) float buffer[kMaxMr * kMaxNr];
    const bool in_place = whole && (!last_ || plain_);
    tile.to = in_place ? (last_ ? c : sums) : buffer;
    tile.to_stride = in_place ? (last_ ? job_.c_stride : sums_stride_) : kMaxNr;
    tile.from = first_ ? nullptr : whole ? sums : buffer;
    tile.from_stride = whole ? sums_stride_ : kMaxNr;
    tile.carry = carry_;
    if (!first_ && !whole) {
      for (int r = 0; r < tile.rows; ++r) {
        for (int j = 0; j < tile.columns; ++j) buffer[r * kMaxNr + j] = sums[Offset(sums_stride_, r, j)];
      }
    }
    if (whole && last_ && beta_ != 0.0f) {  // the addend arrives while the tile is summed
      for (int r = 0; r < tile.rows; ++r) {
        for (int j = 0; j < tile.columns; j += 16) __builtin_prefetch(c + r * job_.c_stride + j, 1);
        __builtin_prefetch(c + r * job_.c_stride + tile.columns - 1, 1);
      }
    }
    isa_.tile(tile);
    if (in_place) return;
    const float alpha = last_ ? alpha_ : 1.0f, beta = last_ ? beta_ : 0.0f;
    float* to = last_ ? c : sums;
    const int64_t stride = last_ ? job_.c_stride : sums_stride_;
    if (!job_.transposed) {
      isa_.finish({tile.rows, tile.columns, buffer, kMaxNr, to, stride, alpha, beta,
                   last_ && job_.bias != nullptr ? job_.bias + column : nullptr});
      return;
    }
    float turned[kMaxMr * kMaxNr];
    for (int j = 0; j < tile.columns; ++j) {
      for (int r = 0; r < tile.rows; ++r) turned[j * kMaxMr + r] = buffer[r * kMaxNr + j];
    }
    isa_.finish({tile.columns, tile.rows, turned, kMaxMr, to, stride, alpha, beta, nullptr});
  }

 private:
  int64_t Offset(int64_t stride, int64_t row, int64_t column) const {
    return job_.transposed ? column * stride + row : row * stride + column;
  }
  const Isa& isa_;
  const Job& job_;
  float alpha_, beta_;
  bool carry_, first_, last_, plain_;
  float* sums_;
  int64_t sums_stride_;
};

// The k blocks of a product: equal multiples of kKUnit, the last one shorter.
struct KBlocks {
  KBlocks(const Isa& isa, int64_t k) {
    const int64_t most = isa.block_words * isa.k_per_word;
    count = std::max<int64_t>(1, Ceil(k, most));
    size = std::max<int64_t>(1, Ceil(Ceil(k, count), kKUnit)) * kKUnit;
    count = std::max<int64_t>(1, Ceil(k, size));
    stride = Ceil(size / isa.k_per_word, gemm::kWordStep) * gemm::kWordStep;
  }
  int64_t count, size, stride;  // stride: words of a padded block
};

void Run(ThreadPool& pool, Workspace& workspace, const Plan& plan, std::span<const Job> jobs) {
  if (plan.rows == 0) return;
  const Isa& isa = plan.isa;
  const Workspace::Mark mark = workspace.GetMark();
  const KBlocks blocks(isa, plan.k);
  const int64_t a_panel = blocks.stride * isa.a_stride, b_panel = blocks.stride * kPanelColumns;
  const int64_t all_panels = Ceil(plan.rows, isa.mr);

  // Panels of a by chunks of k blocks and of rows, [block][panel][words][a_stride].
  const int64_t chunk_blocks =
      std::clamp<int64_t>(kPackedWords / (std::min(all_panels, isa.row_block / isa.mr) * a_panel), 1, blocks.count);
  const int64_t chunk_panels = std::clamp<int64_t>(kPackedWords / (chunk_blocks * a_panel), 1, all_panels);
  uint32_t* packed_a = workspace.Array<uint32_t>(chunk_blocks * chunk_panels * a_panel);

  const int64_t tile_words = kTileColumns / kPanelColumns * b_panel;
  uint32_t* thread_words = workspace.Array<uint32_t>(pool.threads() * (tile_words + kScratch));

  int64_t column_tiles = 0;
  for (const Job& job : jobs) column_tiles += Ceil(job.columns, kTileColumns);

  for (int64_t panel0 = 0; panel0 < all_panels; panel0 += chunk_panels) {
    const int64_t panels = std::min(chunk_panels, all_panels - panel0);
    const int64_t chunk_rows = std::min(panels * isa.mr, plan.rows - panel0 * isa.mr);
    const int64_t most_blocks = std::max<int64_t>(1, 3 * chunk_rows / isa.row_block);
    const int64_t row_blocks =
        std::clamp<int64_t>(Ceil(kEnoughTasks, column_tiles), Ceil(chunk_rows, isa.row_block + isa.mr),
                            std::max(most_blocks, Ceil(chunk_rows, isa.row_block + isa.mr)));
    const int64_t block_panels = Ceil(panels, row_blocks);

    for (int64_t block0 = 0; block0 < blocks.count; block0 += chunk_blocks) {
      const int64_t block_end = std::min(blocks.count, block0 + chunk_blocks);
      const int64_t pack_panels = std::max<int64_t>(1, kPackRows / isa.mr);
      pool.Run(Ceil(panels, pack_panels), [&](int64_t task, int) {
        const int64_t p = task * pack_panels, row = (panel0 + p) * isa.mr;
        const int64_t lines = std::min(std::min(pack_panels, panels - p) * isa.mr, plan.rows - row);
        for (int64_t b = block0; b < block_end; ++b) {
          const int64_t k0 = b * blocks.size;
          PackDense(isa, isa.a, plan.a, row, lines, k0, std::min(blocks.size, plan.k - k0), isa.mr, isa.a_stride,
                    a_panel, packed_a + ((b - block0) * panels + p) * a_panel);
        }
      });
      pool.Run(column_tiles * row_blocks, [&](int64_t task, int thread) {
        int64_t index = task / row_blocks;
        const Job* job = jobs.data();
        for (; index >= Ceil(job->columns, kTileColumns); ++job) index -= Ceil(job->columns, kTileColumns);
        const int64_t column0 = index * kTileColumns;
        const int64_t columns = std::min(kTileColumns, job->columns - column0);
        const int64_t first_panel = task % row_blocks * block_panels;
        const int64_t end_panel = std::min(panels, first_panel + block_panels);
        uint32_t* tile_b = thread_words + thread * (tile_words + kScratch);
        float* scratch = reinterpret_cast<float*>(tile_b + tile_words);
        if (first_panel >= end_panel) return;
        if (isa.begin != nullptr) isa.begin();
        for (int64_t b = block0; b < block_end; ++b) {
          const int64_t k0 = b * blocks.size;
          const int64_t k = std::min(blocks.size, plan.k - k0);
          PackColumns(isa, job->b, column0, columns, k0, k, b_panel, tile_b, scratch);
          const Destination to(plan, *job, b == 0, b + 1 == blocks.count);
          for (int64_t p = first_panel; p < end_panel; ++p) {
            const int64_t row = (panel0 + p) * isa.mr;
            const uint32_t* panel_a = packed_a + ((b - block0) * panels + p) * a_panel;
            const int rows = static_cast<int>(std::min<int64_t>(isa.mr, plan.rows - row));
            for (int64_t j = 0; j < columns; j += isa.nr) {
              Tile tile{.words = Ceil(k, isa.k_per_word),
                        .a = panel_a,
                        .b = tile_b + j / kPanelColumns * b_panel,
                        .b_panel = b_panel,
                        .rows = rows,
                        .columns = static_cast<int>(std::min<int64_t>(isa.nr, columns - j))};
              to.Run(tile, row, column0 + j);
            }
          }
        }
        if (isa.end != nullptr) isa.end();
      });
    }
  }
  workspace.Release(mark);
}

const Isa& IsaFor(Compute compute) { return compute == Compute::kBF16 ? gemm::BF16Isa() : gemm::F32Isa(); }

// Sums that cannot wait in c because c is an addend.
void AddSums(Workspace& workspace, const Plan& plan, Job& job) {
  if (plan.beta != 0.0f && KBlocks(plan.isa, plan.k).count > 1) {
    job.sums = workspace.Array<float>(plan.rows * job.columns);
  }
}

}  // namespace

void DenseMatMul(ThreadPool& pool, Workspace& workspace, Compute compute, Tensor x, std::span<const Product> products) {
  std::vector<Job> jobs;
  std::vector<std::shared_ptr<const uint8_t>> held;
  jobs.reserve(products.size());
  for (const Product& product : products) {
    Check(product.w->in() == x.columns(), "x and the weights disagree on the number of inputs");
    Check(product.y.columns() == product.w->out() && product.y.rows() == x.rows(), "y has another shape than x w^T");
    held.push_back(product.w->Panels(pool));
    jobs.push_back({.b = {.kind = Operand::kWeightsByOutput, .dense = {}, .w = product.w, .panels = held.back().get()},
                    .columns = product.w->out(),
                    .c = product.y.f32(),
                    .c_stride = product.w->out(),
                    .bias = product.bias});
  }
  Run(pool, workspace, {.isa = IsaFor(compute), .a = {.dense = x}, .rows = x.rows(), .k = x.columns(), .carry = true},
      jobs);
}

void MatMulBackward(ThreadPool& pool, Workspace& workspace, Compute compute, Tensor dy, const PackedMatrix& w,
                    Tensor dx, bool add) {
  Check(dy.columns() == w.out(), "dy and the weights disagree on the number of outputs");
  Check(dx.columns() == w.in() && dx.rows() == dy.rows(), "dx has another shape than dy w");
  const Plan plan{
      .isa = IsaFor(compute), .a = {.dense = dy}, .rows = dy.rows(), .k = w.out(), .beta = add ? 1.0f : 0.0f};
  const std::shared_ptr<const uint8_t> held = w.Panels(pool);
  Job job{.b = {.kind = Operand::kWeightsByInput, .dense = {}, .w = &w, .panels = held.get()},
          .columns = w.in(),
          .c = dx.f32(),
          .c_stride = w.in()};
  const Workspace::Mark mark = workspace.GetMark();
  AddSums(workspace, plan, job);
  Run(pool, workspace, plan, {&job, 1});
  workspace.Release(mark);
}

void Gemm(ThreadPool& pool, Workspace& workspace, Compute compute, bool transpose_a, bool transpose_b, float alpha,
          Tensor a, Tensor b, float beta, Tensor c) {
  const int64_t m = c.rows(), n = c.columns(), k = transpose_a ? a.rows() : a.columns();
  Check((transpose_a ? a.columns() : a.rows()) == m, "a and c disagree on the number of rows");
  Check((transpose_b ? b.rows() : b.columns()) == n, "b and c disagree on the number of columns");
  Check((transpose_b ? b.columns() : b.rows()) == k, "a and b disagree on the number of summands");
  const Isa& isa = IsaFor(compute);
  Operand left{.dense = a, .k_minor = !transpose_a}, right{.dense = b, .k_minor = transpose_b};
  // A thin result is computed as its transpose, so that its long side fills the vector lanes; the chains are the same.
  const bool swap = n < kPanelColumns && m > n;
  if (swap) std::swap(left, right);
  const Plan plan{.isa = isa, .a = left, .rows = swap ? n : m, .k = k, .alpha = alpha, .beta = beta};
  Job job{.b = right, .columns = swap ? m : n, .c = c.f32(), .c_stride = n, .transposed = swap};
  const Workspace::Mark mark = workspace.GetMark();
  AddSums(workspace, plan, job);
  Run(pool, workspace, plan, {&job, 1});
  workspace.Release(mark);
}

}  // namespace cambium
