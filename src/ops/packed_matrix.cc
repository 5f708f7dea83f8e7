#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "ops/matmul.h"
#include "ops/panel.h"
#include "tensor/quantize.h"

namespace cambium {
namespace {

constexpr size_t kSlab = size_t{32} << 20;

// Matrices of a model lie side by side in slabs, so that small ones are in huge pages too and prefetching runs from one
// into the next: 1.5 times the bandwidth of a block each. A slab lives as long as a matrix in it.
std::shared_ptr<uint8_t> AllocatePanels(size_t bytes) {
  constexpr size_t kSmall = size_t{64} << 10;
  if (bytes < kSmall || bytes > kSlab / 4) {
    const auto own = std::make_shared<Buffer>(bytes);
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

}  // namespace

struct PackedMatrix::Late {
  std::shared_ptr<const StoredWeights> source;
  Tensor weights;
  std::shared_ptr<uint8_t> panels;  // null: not packed, or given up
  uint64_t used = 0;                // when, by the shelf's count of uses
};

// The panels of a model's matrices that are packed on demand: places in slabs, which go from one matrix to the next of
// its size.
class StoredWeights::Shelf : public std::enable_shared_from_this<Shelf> {
 public:
  void Add(PackedMatrix::Late* matrix) {
    const std::lock_guard lock(mutex_);
    matrices_.push_back(matrix);
  }
  void Remove(PackedMatrix::Late* matrix) {
    std::shared_ptr<uint8_t> panels;  // given back once the lock is
    const std::lock_guard lock(mutex_);
    panels = std::move(matrix->panels);
    std::erase(matrices_, matrix);
  }
  std::shared_ptr<const uint8_t> Panels(ThreadPool& pool, PackedMatrix::Late& matrix, size_t bytes) {
    const std::lock_guard lock(mutex_);
    matrix.used = ++uses_;
    if (matrix.panels == nullptr) {
      std::shared_ptr<uint8_t> panels = Place(bytes);
      PackPanels(pool, matrix.weights, {}, 0, cambium::Panels(matrix.weights.rows()), panels.get());
      matrix.source->WasRead(matrix.weights);
      matrix.panels = std::move(panels);
    }
    return matrix.panels;
  }

 private:
  std::shared_ptr<uint8_t> Place(size_t bytes) {
    if (!HasFree(bytes) && left_ < bytes && Short(bytes)) GiveUp(bytes);
    uint8_t* at = nullptr;
    {
      const std::lock_guard lock(free_mutex_);
      if (std::vector<uint8_t*>& places = free_[bytes]; !places.empty()) {
        at = places.back();
        places.pop_back();
      }
    }
    if (at == nullptr && left_ < bytes) {
      slabs_.emplace_back(std::max(bytes, kSlab));
      left_ = slabs_.back().bytes();
    }
    if (at == nullptr) {
      at = slabs_.back().as<uint8_t>() + (slabs_.back().bytes() - left_);
      left_ -= bytes;
    }
    // Whoever lets go last gives the place back, a product on another thread perhaps.
    return {at, [shelf = shared_from_this(), bytes](uint8_t* place) {
              const std::lock_guard lock(shelf->free_mutex_);
              shelf->free_[bytes].push_back(place);
            }};
  }
  bool HasFree(size_t bytes) {
    const std::lock_guard lock(free_mutex_);
    return !free_[bytes].empty();
  }
  static bool Short(size_t bytes) {
    constexpr int64_t kReserve = int64_t{256} << 20;  // for all else
    return AvailableMemory() < static_cast<int64_t>(std::max(bytes, kSlab)) + kReserve;
  }
  // Lets go of what was not used for longest until a place of this size is free, if one can be.
  void GiveUp(size_t bytes) {
    while (!HasFree(bytes)) {
      PackedMatrix::Late* oldest = nullptr;
      for (PackedMatrix::Late* matrix : matrices_) {
        if (matrix->panels != nullptr && (oldest == nullptr || matrix->used < oldest->used)) oldest = matrix;
      }
      if (oldest == nullptr) return;
      oldest->panels.reset();
    }
  }

  std::mutex mutex_, free_mutex_;  // the second is taken under the first, never the other way
  std::vector<PackedMatrix::Late*> matrices_;
  uint64_t uses_ = 0;
  std::vector<Buffer> slabs_;
  size_t left_ = 0;  // of the last slab
  std::map<size_t, std::vector<uint8_t*>> free_;
};

StoredWeights::StoredWeights() : shelf_(std::make_shared<Shelf>()) {}

PackedMatrix::PackedMatrix() = default;
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;

PackedMatrix& PackedMatrix::operator=(PackedMatrix&& other) noexcept {
  std::swap(late_, other.late_);
  std::swap(panels_, other.panels_);
  std::swap(out_, other.out_);
  std::swap(in_, other.in_);
  std::swap(bytes_, other.bytes_);
  std::swap(dtype_, other.dtype_);
  return *this;
}

PackedMatrix::~PackedMatrix() {
  if (late_ != nullptr) late_->source->shelf_->Remove(late_.get());
}

PackedMatrix::PackedMatrix(ThreadPool& pool, Tensor weights, std::span<const int32_t> row_order,
                           void (*release)(void* context, int64_t row, int64_t rows), void* context)
    : out_(weights.rows()), in_(weights.columns()), dtype_(weights.dtype) {
  Check(dtype_ != DType::kI32 && dtype_ != DType::kI64, "weights are not integers");
  Check(in_ % Info(dtype_).block == 0, "a row of weights is whole blocks");
  Check(row_order.empty() || static_cast<int64_t>(row_order.size()) == out_, "row_order names every row once");
  const int64_t panels = cambium::Panels(out_), panel_bytes = PanelLayout(dtype_, in_).bytes;
  bytes_ = panels * panel_bytes;
  panels_ = AllocatePanels(static_cast<size_t>(bytes_));
  // Without a permutation the source is given back in pieces, so that the two copies never exist together.
  constexpr int64_t kPieceBytes = int64_t{4} << 20;
  const int64_t piece =
      row_order.empty() ? std::max<int64_t>(1, kPieceBytes / std::max<int64_t>(1, panel_bytes)) : panels;
  for (int64_t begin = 0; begin < panels; begin += piece) {
    const int64_t end = std::min(panels, begin + piece);
    PackPanels(pool, weights, row_order, begin, end, panels_.get());
    if (release != nullptr) release(context, begin * kPanel, std::min(out_, end * kPanel) - begin * kPanel);
  }
}

PackedMatrix::PackedMatrix(std::shared_ptr<const StoredWeights> source, Tensor weights)
    : late_(std::make_unique<Late>()), out_(weights.rows()), in_(weights.columns()), dtype_(weights.dtype) {
  Check(dtype_ != DType::kI32 && dtype_ != DType::kI64, "weights are not integers");
  Check(in_ % Info(dtype_).block == 0, "a row of weights is whole blocks");
  bytes_ = cambium::Panels(out_) * PanelLayout(dtype_, in_).bytes;
  late_->source = std::move(source);
  late_->weights = weights;
  late_->source->shelf_->Add(late_.get());
}

std::shared_ptr<const uint8_t> PackedMatrix::Panels(ThreadPool& pool) const {
  if (late_ == nullptr) return panels_;
  return late_->source->shelf_->Panels(pool, *late_, static_cast<size_t>(bytes_));
}

// What is packed on demand is read where it is stored: the values are the same, and it stays cold.
void PackedMatrix::UnpackRow(int64_t row, float* dst) const {
  if (late_ != nullptr) {
    const Tensor stored = late_->weights.Rows(row, 1);
    return Dequantize(dtype_, stored.data, dst, in_);
  }
  const int64_t panel_bytes = PanelLayout(dtype_, in_).bytes;
  const uint8_t* panel = panels_.get() + row / kPanel * panel_bytes;
  DecodePanelRow(dtype_, in_, panel, static_cast<int>(row % kPanel), dst);
}

void PackedMatrix::Unpack(ThreadPool& pool, Tensor dst) const {
  Check(dst.rows() == out_ && dst.columns() == in_, "Unpack fills [out, in]");
  pool.Run(cambium::Panels(out_), [&](int64_t panel, int) {
    for (int64_t row = panel * kPanel; row < std::min(out_, (panel + 1) * kPanel); ++row) UnpackRow(row, dst.row(row));
  });
  if (late_ != nullptr) late_->source->WasRead(late_->weights);
}

void PackedMatrix::Repack(ThreadPool& pool, Tensor weights) {
  Check(late_ == nullptr && !IsQuantized(dtype_) && weights.dtype == DType::kF32,
        "Repack turns f32 values into a dense type");
  Check(weights.rows() == out_ && weights.columns() == in_, "Repack keeps the shape");
  const int64_t panel_bytes = PanelLayout(dtype_, in_).bytes;
  pool.Run(cambium::Panels(out_), [&](int64_t panel, int) {
    const float* rows[kPanel] = {};
    for (int o = 0; o < kPanel && panel * kPanel + o < out_; ++o) rows[o] = weights.row(panel * kPanel + o);
    RoundPanel(dtype_, in_, rows, panels_.get() + panel * panel_bytes);
  });
}

}  // namespace cambium
