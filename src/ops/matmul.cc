#include "ops/matmul.h"

#include <algorithm>
#include <vector>

#include "ops/panel.h"

namespace cambium {
namespace {

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

}  // namespace

PackedMatrix::PackedMatrix(ThreadPool& pool, Tensor weights, std::span<const int32_t> row_order,
                           void (*release)(void* context, int64_t row, int64_t rows), void* context)
    : out_(weights.rows()), in_(weights.columns()), dtype_(weights.dtype) {
  Check(dtype_ != DType::kI32 && dtype_ != DType::kI64, "weights are not integers");
  Check(in_ % Info(dtype_).block == 0, "a row of weights is whole blocks");
  Check(row_order.empty() || static_cast<int64_t>(row_order.size()) == out_, "row_order names every row once");
  const int64_t panels = Panels(out_), panel_bytes = PanelLayout(dtype_, in_).bytes;
  buffer_ = Buffer(static_cast<size_t>(panels * panel_bytes));
  // Without a permutation the source is given back in pieces, so that the two copies never exist together.
  constexpr int64_t kPieceBytes = int64_t{4} << 20;
  const int64_t piece = row_order.empty() ? std::max<int64_t>(1, kPieceBytes / std::max<int64_t>(1, panel_bytes))
                                          : panels;
  for (int64_t begin = 0; begin < panels; begin += piece) {
    const int64_t end = std::min(panels, begin + piece);
    PackPanels(pool, weights, row_order, begin, end, buffer_.as<uint8_t>());
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
  Check(!IsQuantized(dtype_) && weights.dtype == dtype_, "Repack keeps a dense type");
  Check(weights.rows() == out_ && weights.columns() == in_, "Repack keeps the shape");
  PackPanels(pool, weights, {}, 0, Panels(out_), buffer_.as<uint8_t>());
}

}  // namespace cambium
