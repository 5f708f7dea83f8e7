#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "base/simd_targets.h"
#include "ops/attention.h"
#include "ops/ranges.h"

#ifndef CAMBIUM_OPS_ATTENTION_BACKWARD_CC_
#define CAMBIUM_OPS_ATTENTION_BACKWARD_CC_
namespace cambium {
namespace {

constexpr float kLog2E = 1.44269504f;  // probabilities are powers of two, as in the forward pass
constexpr int64_t kUnitKeys = 512;     // keys whose dk and dv one task keeps in its second-level cache
constexpr int64_t kTargetRows = 48;    // (row, head) pairs of a query tile
constexpr int64_t kTargetTasks = 12;   // tasks a wave holds; more would need more memory for partial dq

// Up to kUnitKeys keys of a segment, of its prefix or of its own rows.
struct Unit {
  const AttentionSegment* segment;
  bool prefix;
  int64_t begin, count;        // keys within the span
  int64_t row_begin, row_end;  // rows of the segment that see any of them, whole query tiles
};

struct BackwardProblem {
  AttentionShape shape;
  const float *q, *k, *v, *prefix_k, *prefix_v, *out, *lse, *dout;
  float *dq, *dk, *dv;
  int64_t group() const { return shape.heads / shape.kv_heads; }
  int64_t width() const { return (shape.head_dim + 15) / 16 * 16; }
  int64_t tile_rows() const { return std::max<int64_t>(1, kTargetRows / group()); }  // rows of a query tile
};

struct BackwardTask {
  const Unit* unit;
  int kv_head;
  float* dq;       // [rows, heads, head_dim] of the whole call
  bool add;        // else dq is a slot that this task fills
  float *dk, *dv;  // row 0 of the unit's span, [rows, kv_heads, head_dim]
};

int64_t BackwardScratchFloats(const BackwardProblem& problem) {
  const int64_t rows = problem.tile_rows() * problem.group(), width = problem.width();
  return 5 * kUnitKeys * width + rows * (5 * width + 2 * 64 + 2);
}

}  // namespace
}  // namespace cambium
#endif  // CAMBIUM_OPS_ATTENTION_BACKWARD_CC_

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/attention_backward.cc"
#include "hwy/foreach_target.h"
#include "ops/attention_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace cambium::HWY_NAMESPACE {
namespace {

// out [rows of the result][width] += transposed weights [n][64] times values: row r takes weights[step][r].
void AccumulateTransposed(const float* weights, int64_t rows, const float* const* values, int64_t n, int64_t width,
                          float* out) {
  ForRowBlocks(rows, [&](auto block, int64_t row) {
    AccumulateBlock<block.value, 1, kTile>(weights + row, values, n, width, out + row * width, width);
  });
}

class BackwardWorker {
 public:
  BackwardWorker(const BackwardProblem& problem, const BackwardTask& task, float* scratch)
      : problem_(problem),
        task_(task),
        unit_(*task.unit),
        segment_(*task.unit->segment),
        group_(problem.group()),
        width_(problem.width()),
        head_dim_(problem.shape.head_dim),
        padded_(width_ != head_dim_) {
    const int64_t most = problem.tile_rows() * group_;
    const auto take = [&](int64_t count) { return std::exchange(scratch, scratch + count); };
    keys_ = take(kUnitKeys * width_);
    values_ = take(kUnitKeys * width_);
    key_rows_ = take(kUnitKeys * width_);
    dk_ = take(kUnitKeys * width_);
    dv_ = take(kUnitKeys * width_);
    q_ = take(most * width_);
    dout_ = take(most * width_);
    q_rows_ = take(most * width_);
    dout_rows_ = take(most * width_);
    dq_ = take(most * width_);
    p_ = take(most * kTile);
    ds_ = take(most * kTile);
    lse_ = take(most);
    delta_ = take(most);
  }

  void Run() {
    PackKeys();
    std::fill(dk_, dk_ + unit_.count * width_, 0.0f);
    std::fill(dv_, dv_ + unit_.count * width_, 0.0f);
    for (int64_t row = unit_.row_begin; row < unit_.row_end; row += problem_.tile_rows()) {
      QueryTile(row, std::min(problem_.tile_rows(), unit_.row_end - row));
    }
    for (int64_t j = 0; j < unit_.count; ++j) {
      float* to = task_.dk + KeyRow(j) * head_dim_;
      for (int64_t i = 0; i < head_dim_; ++i) to[i] = dk_[j * width_ + i] * problem_.shape.scale;
      std::memcpy(task_.dv + KeyRow(j) * head_dim_, dv_ + j * width_, sizeof(float) * static_cast<size_t>(head_dim_));
    }
  }

 private:
  // (row, kv head) of the unit's key j within its span's tensors.
  int64_t KeyRow(int64_t j) const { return (unit_.begin + j) * problem_.shape.kv_heads + task_.kv_head; }
  int64_t QueryRow(int64_t row, int64_t r) const {
    return (segment_.begin + row + r / group_) * problem_.shape.heads + task_.kv_head * group_ + r % group_;
  }
  const float* Span(const float* prefix, const float* own) const {
    return unit_.prefix ? prefix : own + segment_.key_begin() * problem_.shape.kv_heads * head_dim_;
  }

  // `row` itself where rows fill whole vectors, else a zero-padded copy in `copy`.
  const float* Padded(const float* row, float* copy) const {
    if (!padded_) return row;
    std::copy(row, row + head_dim_, copy);
    std::fill(copy + head_dim_, copy + width_, 0.0f);
    return copy;
  }

  // Transposes the unit's keys and values into groups [head_dim][16]; a last tile is filled up with zeros.
  void PackKeys() {
    const float* k = Span(problem_.prefix_k, problem_.k);
    const float* v = Span(problem_.prefix_v, problem_.v);
    const int64_t filled = (unit_.count + kTile - 1) / kTile * kTile;
    for (int64_t j = 0; j < filled; ++j) {
      float* key = keys_ + j / kGroup * kGroup * head_dim_ + j % kGroup;
      float* value = values_ + j / kGroup * kGroup * head_dim_ + j % kGroup;
      const bool real = j < unit_.count;
      for (int64_t i = 0; i < head_dim_; ++i) {
        key[i * kGroup] = real ? k[KeyRow(j) * head_dim_ + i] : 0.0f;
        value[i * kGroup] = real ? v[KeyRow(j) * head_dim_ + i] : 0.0f;
      }
      if (real) key_pointers_[j] = Padded(k + KeyRow(j) * head_dim_, key_rows_ + j * width_);
    }
  }

  void QueryTile(int64_t row, int64_t count) {
    const F32 d;
    const int64_t rows = count * group_;
    const auto q_row = [&](int64_t r) { return problem_.q + QueryRow(row, r) * head_dim_; };
    const auto dout_row = [&](int64_t r) { return problem_.dout + QueryRow(row, r) * head_dim_; };
    PackRows(q_row, rows, head_dim_, q_);
    PackRows(dout_row, rows, head_dim_, dout_);
    const float* q_pointers[kMaxRows];
    const float* dout_pointers[kMaxRows];
    for (int64_t r = 0; r < rows; ++r) {
      q_pointers[r] = Padded(q_row(r), q_rows_ + r * width_);
      dout_pointers[r] = Padded(dout_row(r), dout_rows_ + r * width_);
      lse_[r] = problem_.lse[QueryRow(row, r)] * kLog2E;
      const float* out = problem_.out + QueryRow(row, r) * head_dim_;
      VecF dot = hn::Zero(d);
      ForVectors(head_dim_, [&](int64_t i, int lanes)
                                HWY_ATTR { dot = hn::MulAdd(Get(out + i, lanes), Get(dout_row(r) + i, lanes), dot); });
      delta_[r] = Sum(d, dot);
    }
    std::fill(dq_, dq_ + rows * width_, 0.0f);
    const int64_t origin = (unit_.prefix ? 0 : segment_.past) + unit_.begin;  // position of the unit's first key
    const bool memory = segment_.sees_memory();
    const int64_t first_position = segment_.past + (memory ? segment_.memory - 1 : row);
    const int64_t last_position = memory ? first_position : first_position + count - 1;
    for (int64_t tile = 0; tile < unit_.count; tile += kTile) {
      if (origin + tile > last_position) break;
      const int64_t n = std::min<int64_t>(kTile, unit_.count - tile);
      if (problem_.shape.window > 0 && origin + tile + n - 1 <= first_position - problem_.shape.window) continue;
      const float* keys[kTile / kGroup];
      const float* values[kTile / kGroup];
      for (int g = 0; g < kTile / kGroup; ++g) {
        keys[g] = keys_ + (tile + g * kGroup) * head_dim_;
        values[g] = values_ + (tile + g * kGroup) * head_dim_;
      }
      DotRows(q_, rows, keys, head_dim_, p_, kTile);
      DotRows(dout_, rows, values, head_dim_, ds_, kTile);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t position = memory ? first_position : first_position + r / group_;
        const int64_t oldest = problem_.shape.window > 0 ? position + 1 - problem_.shape.window : 0;
        Probabilities(r, std::clamp<int64_t>(oldest - origin - tile, 0, n),
                      std::clamp<int64_t>(position + 1 - origin - tile, 0, n));
      }
      AccumulateTransposed(p_, n, dout_pointers, rows, width_, dv_ + tile * width_);
      AccumulateTransposed(ds_, n, q_pointers, rows, width_, dk_ + tile * width_);
      AccumulateRows(ds_, rows, key_pointers_ + tile, n, width_, dq_);
    }
    for (int64_t r = 0; r < rows; ++r) {
      float* to = task_.dq + QueryRow(row, r) * head_dim_;
      const float* from = dq_ + r * width_;
      // The product is rounded before it is added, as where it passes through a slot.
      for (int64_t i = 0; i < head_dim_; ++i) dq_[r * width_ + i] *= problem_.shape.scale;
      for (int64_t i = 0; i < head_dim_; ++i) to[i] = task_.add ? to[i] + from[i] : from[i];
    }
  }

  // p_ holds q k^T and ds_ holds dout v^T of row r; makes them p and, but for the scale, the gradient of q k^T. Keys
  // outside [begin, end) are not seen.
  void Probabilities(int64_t r, int64_t begin, int64_t end) {
    const F32 d;
    const hn::RebindToSigned<F32> di;
    const bool masked = begin > 0 || end < kTile;
    const float cap = problem_.shape.softcap;
    const VecF base = hn::Set(d, cap > 0 ? kLog2E : kLog2E * problem_.shape.scale);
    const VecF lse = hn::Set(d, lse_[r]), delta = hn::Set(d, delta_[r]);
    float* scores = p_ + r * kTile;
    float* slopes = ds_ + r * kTile;
    for (int lane = 0; lane < kTile; lane += kLanes) {
      VecF s = hn::LoadU(d, scores + lane);
      VecF dp = hn::Sub(hn::LoadU(d, slopes + lane), delta);
      if (cap > 0) {
        const VecF t = Tanh(d, hn::Mul(s, hn::Set(d, problem_.shape.scale / cap)));
        s = hn::Mul(hn::Set(d, cap), t);
        dp = hn::Mul(dp, hn::NegMulAdd(t, t, hn::Set(d, 1.0f)));
      }
      VecF p = Exp2(d, hn::MulSub(s, base, lse));
      if (masked) {
        const auto place = hn::Iota(di, lane);
        const auto seen = hn::And(hn::Gt(place, hn::Set(di, static_cast<int32_t>(begin) - 1)),
                                  hn::Lt(place, hn::Set(di, static_cast<int32_t>(end))));
        p = hn::IfThenElseZero(hn::RebindMask(d, seen), p);
      }
      hn::StoreU(p, d, scores + lane);
      hn::StoreU(hn::Mul(p, dp), d, slopes + lane);
    }
  }

  static constexpr int64_t kMaxRows = 256;  // heads of one kv head, or kTargetRows
  const BackwardProblem& problem_;
  const BackwardTask& task_;
  const Unit& unit_;
  const AttentionSegment& segment_;
  const int64_t group_, width_, head_dim_;
  const bool padded_;
  float *keys_, *values_, *key_rows_, *dk_, *dv_;
  float *q_, *dout_, *q_rows_, *dout_rows_, *dq_;
  float *p_, *ds_, *lse_, *delta_;
  const float* key_pointers_[kUnitKeys];
};

}  // namespace

void RunBackwardTask(const BackwardProblem& problem, const BackwardTask& task, float* scratch) {
  BackwardWorker(problem, task, scratch).Run();
}

void AddInto(const float* from, int64_t count, float* to) {
  ForVectors(count, [&](int64_t i, int lanes)
                        HWY_ATTR { Put(hn::Add(Get(to + i, lanes), Get(from + i, lanes)), to + i, lanes); });
}

}  // namespace cambium::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cambium {

HWY_EXPORT(RunBackwardTask);
HWY_EXPORT(AddInto);

namespace {

// The units of a segment: prefix first, then its own rows; a row's dq adds them up in this order.
std::vector<Unit> Units(const BackwardProblem& problem, const AttentionSegment& segment) {
  std::vector<Unit> units;
  for (const bool prefix : {true, false}) {
    const int64_t keys = prefix ? segment.past : segment.keys();
    for (int64_t begin = 0; begin < keys; begin += kUnitKeys) {
      const int64_t count = std::min(kUnitKeys, keys - begin);
      const int64_t origin = (prefix ? 0 : segment.past) + begin, tile = problem.tile_rows();
      int64_t row_end = segment.count;
      if (problem.shape.window > 0) {
        row_end = std::clamp<int64_t>(origin + count - 1 + problem.shape.window - segment.past, 0, segment.count);
      }
      const int64_t row_begin = prefix || segment.sees_memory() ? 0 : begin / tile * tile;
      units.push_back({&segment, prefix, begin, count, row_begin, row_end});
    }
  }
  return units;
}

}  // namespace

void AttentionBackward(ThreadPool& pool, Workspace& workspace, const AttentionShape& shape,
                       std::span<const AttentionSegment> segments, Tensor q, Tensor k, Tensor v, Tensor prefix_k,
                       Tensor prefix_v, Tensor out, Tensor lse, Tensor dout, Tensor dq, Tensor dk, Tensor dv,
                       Tensor dprefix_k, Tensor dprefix_v) {
  Check(shape.heads % shape.kv_heads == 0 && shape.heads / shape.kv_heads <= 256, "heads fit their kv heads");
  const Workspace::Mark mark = workspace.GetMark();
  const BackwardProblem problem{shape,     q.f32(),   k.f32(),    v.f32(),  prefix_k.f32(), prefix_v.f32(),
                                out.f32(), lse.f32(), dout.f32(), dq.f32(), dk.f32(),       dv.f32()};
  const int64_t kv_columns = int64_t{shape.kv_heads} * shape.head_dim, columns = int64_t{shape.heads} * shape.head_dim;
  const int64_t rows = q.size() / columns;
  std::vector<std::vector<Unit>> units;
  int64_t most_units = 0;
  int64_t past_rows = 0;  // rows of prefix gradients, over all segments that have a prefix
  for (const AttentionSegment& segment : segments) {
    Check(segment.parents.empty(), "training rows form chains");
    units.push_back(Units(problem, segment));
    most_units = std::max(most_units, std::ssize(units.back()));
    past_rows += segment.past;
  }
  Check(past_rows == 0 || (prefix_k && prefix_v), "segments with a past have prefix keys and values");
  // A wave holds `width` units of every segment. The first adds to dq itself, the others fill slots that are added
  // after the wave in unit order: dq has the same bits whatever the width.
  const int64_t wanted = kTargetTasks / std::max<int64_t>(1, std::ssize(segments) * shape.kv_heads);
  const size_t width = static_cast<size_t>(std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, most_units)));
  float* slots = width > 1 ? workspace.Array<float>(static_cast<int64_t>(width - 1) * rows * columns) : nullptr;
  float* prefix_dk = past_rows > 0 ? workspace.Array<float>(past_rows * kv_columns) : nullptr;
  float* prefix_dv = past_rows > 0 ? workspace.Array<float>(past_rows * kv_columns) : nullptr;
  const int64_t scratch_floats = BackwardScratchFloats(problem);
  float* scratch = workspace.Array<float>(scratch_floats * pool.threads());

  ForRanges(pool, rows * columns, kElementsPerTask,
            [&](int64_t begin, int64_t end) { std::fill(dq.f32() + begin, dq.f32() + end, 0.0f); });
  std::vector<BackwardTask> tasks;
  for (size_t wave = 0; wave < static_cast<size_t>(most_units); wave += width) {
    tasks.clear();
    for (size_t slot = 0; slot < width; ++slot) {
      int64_t past = 0;
      for (size_t s = 0; s < units.size(); past += segments[s].past, ++s) {
        if (wave + slot >= units[s].size()) continue;
        const Unit& unit = units[s][wave + slot];
        float* to_dq = slot == 0 ? dq.f32() : slots + static_cast<int64_t>(slot - 1) * rows * columns;
        float* to_dk = unit.prefix ? prefix_dk + past * kv_columns : dk.f32() + segments[s].key_begin() * kv_columns;
        float* to_dv = unit.prefix ? prefix_dv + past * kv_columns : dv.f32() + segments[s].key_begin() * kv_columns;
        for (int kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
          tasks.push_back({&unit, kv_head, to_dq, slot == 0, to_dk, to_dv});
        }
      }
    }
    pool.Run(std::ssize(tasks), [&](int64_t task, int thread) {
      HWY_DYNAMIC_DISPATCH(RunBackwardTask)
      (problem, tasks[static_cast<size_t>(task)], scratch + thread * scratch_floats);
    });
    for (size_t s = 0; s < units.size(); ++s) {
      ForRows(pool, segments[s].count, columns, [&](int64_t begin, int64_t end) {
        for (size_t slot = 1; slot < width && wave + slot < units[s].size(); ++slot) {
          const Unit& unit = units[s][wave + slot];
          const int64_t first = std::max(begin, unit.row_begin), last = std::min(end, unit.row_end);
          if (first >= last) continue;
          const int64_t at = (segments[s].begin + first) * columns;
          HWY_DYNAMIC_DISPATCH(AddInto)
          (slots + static_cast<int64_t>(slot - 1) * rows * columns + at, (last - first) * columns, dq.f32() + at);
        }
      });
    }
  }
  // Prefix gradients add up in segment order.
  int64_t past = 0;
  for (const AttentionSegment& segment : segments) {
    const int64_t at = past * kv_columns, count = segment.past * kv_columns;
    if (dprefix_k) HWY_DYNAMIC_DISPATCH(AddInto)(prefix_dk + at, count, dprefix_k.f32());
    if (dprefix_v) HWY_DYNAMIC_DISPATCH(AddInto)(prefix_dv + at, count, dprefix_v.f32());
    past += segment.past;
  }
  workspace.Release(mark);
}

}  // namespace cambium
#endif  // HWY_ONCE
