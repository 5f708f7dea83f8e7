#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/simd_targets.h"
#include "ops/ranges.h"
#include "tensor/half.h"

#ifndef CAMBIUM_OPS_ATTENTION_CC_
#define CAMBIUM_OPS_ATTENTION_CC_
namespace cambium {
namespace {

constexpr int kTilesPerChunk = 8;   // 512 logical positions: the unit of flash-decoding
constexpr float kNothing = -1e30f;  // the running maximum before any key; finite, so that differences are numbers
constexpr float kHidden = -1e36f;   // the score of a key that a row does not see
constexpr int64_t kTargetRows =
    96;  // (row, head) pairs a task keeps in flight: key and value tiles are read once for all
constexpr int64_t kDirectRows = 12;  // up to here f16 is widened in the kernel, beyond it once a tile

// One task: rows [begin, begin + count) of a segment, the query heads of one kv head, tiles [first_tile, last_tile).
struct Item {
  const AttentionSegment* segment;
  int64_t begin, count;
  int kv_head;
  int64_t first_tile, last_tile;
  float* partial;  // null: normalise into out; else [count * group][width + 2] with (sum, maximum, total) for a merge
};

struct Problem {
  AttentionShape shape;
  KvLayer layer;
  const float* q;
  float* out;
  float* lse;  // may be null
  // Probabilities are powers of two: 2^(score * base - maximum), so one multiply-add stands before each. `base` is
  // log2(e) times the scale, or log2(e) alone where a softcap has applied the scale already.
  float base;
  int64_t tail_rows;  // longest tree
  int64_t group() const { return shape.heads / shape.kv_heads; }
  int64_t width() const { return (shape.head_dim + 15) / 16 * 16; }
  int64_t tail_slots() const { return (tail_rows + 63) / 64 * 64 + 64; }
};

int64_t Depth(const AttentionSegment& segment, int64_t row) {
  if (segment.parents.empty()) return row;
  int64_t depth = 0;
  for (int32_t parent = segment.parents[row]; parent >= 0; parent = segment.parents[parent]) ++depth;
  return depth;
}

// The last logical position that a row sees.
int64_t Position(const AttentionSegment& segment, int64_t row) {
  return segment.past + (segment.sees_memory() ? segment.memory - 1 : Depth(segment, row));
}

// The natural logarithm of total * 2^maximum.
float Lse(float maximum, float total) { return maximum * 0.69314718f + std::log(total); }

int64_t ItemRows(const Problem& problem) { return std::max<int64_t>(1, kTargetRows / problem.group()); }

// Floats of scratch for one thread; Scratch in the kernel cuts it up.
int64_t ScratchFloats(const Problem& problem) {
  const int64_t rows = ItemRows(problem) * problem.group(), width = problem.width();
  return rows * (3 * width + 64 + 16 + 3) + 2 * 64 * width + (problem.tail_rows > 0 ? rows * problem.tail_slots() : 0);
}

}  // namespace
}  // namespace cambium
#endif  // CAMBIUM_OPS_ATTENTION_CC_

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/attention.cc"
#include "hwy/foreach_target.h"
#include "ops/attention_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace cambium::HWY_NAMESPACE {
namespace {

// acc = acc * 2^(maximum - new) + part * 2^(part_maximum - new): one step of the online softmax over chunks.
HWY_INLINE void MergeRow(const float* part, float part_maximum, float part_total, int64_t width, float* acc,
                         float& maximum, float& total) {
  const F32 d;
  const float top = std::max(maximum, part_maximum);
  const VecF old_factor = Exp2(d, hn::Set(d, maximum - top));
  const VecF new_factor = Exp2(d, hn::Set(d, part_maximum - top));
  for (int64_t i = 0; i < width; i += kLanes) {
    const VecF scaled = hn::Mul(hn::LoadU(d, part + i), new_factor);
    hn::StoreU(hn::MulAdd(hn::LoadU(d, acc + i), old_factor, scaled), d, acc + i);
  }
  total = total * hn::GetLane(old_factor) + part_total * hn::GetLane(new_factor);
  maximum = top;
}

class Worker {
 public:
  Worker(const Problem& problem, const Item& item, float* scratch)
      : problem_(problem),
        item_(item),
        segment_(*item.segment),
        group_(problem.group()),
        width_(problem.width()),
        head_dim_(problem.shape.head_dim),
        rows_(item.count * group_) {
    const int64_t most = ItemRows(problem) * group_;
    const auto take = [&](int64_t count) { return std::exchange(scratch, scratch + count); };
    q_ = take(most * width_);
    sum_ = take(most * width_);
    acc_ = take(most * width_);
    scores_ = take(most * kTile);
    wide_keys_ = take(kTile * width_);
    wide_values_ = take(kTile * width_);
    maximum_ = take(most);
    total_ = take(most * kLanes);
    acc_maximum_ = take(most);
    acc_total_ = take(most);
    tail_ = scratch;
  }

  template <class T>
  void Run() {
    PackRows([&](int64_t r) { return problem_.q + QueryRow(r) * head_dim_; }, rows_, head_dim_, q_);
    std::fill(acc_, acc_ + rows_ * width_, 0.0f);
    std::fill(acc_maximum_, acc_maximum_ + rows_, kNothing);
    std::fill(acc_total_, acc_total_ + rows_, 0.0f);
    Restart(0, rows_);
    const bool tree = !segment_.parents.empty();
    const int64_t first_position = segment_.past + (tree ? 0 : item_.begin);
    const int64_t tail_tile = tree ? segment_.past / kTile : item_.last_tile;
    int64_t tile = item_.first_tile;
    if (problem_.shape.window > 0) {
      tile = std::max(tile, std::max<int64_t>(0, first_position + 1 - problem_.shape.window) / kTile);
    }
    for (; tile < std::min(tail_tile, item_.last_tile); ++tile) {
      SharedTile<T>(tile);
      if ((tile + 1) % kTilesPerChunk == 0) FinishChunk(0, rows_);
    }
    if (tree && tail_tile < item_.last_tile) Tail<T>(tail_tile);
    FinishChunk(0, rows_);
    Write();
  }

 private:
  int64_t QueryRow(int64_t r) const {
    return (segment_.begin + item_.begin + r / group_) * problem_.shape.heads + item_.kv_head * group_ + r % group_;
  }

  // The page of a slot; slots beyond the last page (masked, in a last tile) read that page.
  template <class T>
  const T* Page(int64_t slot) const {
    const size_t index = std::min(static_cast<size_t>(slot / kGroup), segment_.pages.size() - 1);
    return reinterpret_cast<const T*>(static_cast<const char*>(problem_.layer.base) +
                                      segment_.pages[index] * problem_.layer.page_bytes);
  }
  template <class T>
  const T* Keys(int64_t slot) const {
    return Page<T>(slot) + int64_t{item_.kv_head} * head_dim_ * kGroup;
  }
  template <class T>
  const T* Values(int64_t slot) const {
    const int64_t index = problem_.shape.kv_heads + item_.kv_head;
    return Page<T>(slot) + (index * kGroup + slot % kGroup) * head_dim_;
  }

  const Half* Scales(int64_t slot) const {
    return reinterpret_cast<const Half*>(reinterpret_cast<const char*>(Page<char>(slot)) +
                                         problem_.layer.ScalesBegin());
  }

  // The keys of a page, [head_dim][16].
  template <class T>
  void WidenKeys(int64_t slot, float* to) const {
    const F32 d;
    const T* keys = Keys<T>(slot);
    if constexpr (std::is_same_v<T, int8_t>) {
      const Half* scales = Scales(slot) + problem_.layer.KeyScales(item_.kv_head, 0);
      for (int64_t i = 0; i < head_dim_ * kGroup; i += kLanes) {
        const Half* scale = scales + i / (kGroup * KvLayer::kScaleBlock) * kGroup + i % kGroup;
        hn::StoreU(hn::Mul(LoadF32(d, keys + i), LoadF32(d, scale)), d, to + i);
      }
    } else {
      for (int64_t i = 0; i < head_dim_ * kGroup; i += kLanes) hn::StoreU(LoadF32(d, keys + i), d, to + i);
    }
  }
  // The value of a slot, zeros behind it.
  template <class T>
  void WidenValue(int64_t slot, float* to) const {
    const F32 d;
    const T* value = Values<T>(slot);
    ForVectors(head_dim_, [&](int64_t i, int count) HWY_ATTR {
      VecF x = count == kLanes ? LoadF32(d, value + i) : LoadFirst(d, value + i, count);
      if constexpr (std::is_same_v<T, int8_t>) {
        const Half* scales = Scales(slot) + problem_.layer.ValueScales(item_.kv_head, slot);
        x = hn::Mul(x, hn::Set(d, HalfToFloat(scales[i / KvLayer::kScaleBlock].bits)));
      }
      hn::StoreU(x, d, to + i);
    });
    for (int64_t i = (head_dim_ + kLanes - 1) / kLanes * kLanes; i < width_; ++i) to[i] = 0.0f;
  }
  // Whether the products read elements as they are stored.
  template <class T>
  bool Direct(bool few_rows) const {
    return width_ == head_dim_ && (std::is_same_v<T, float> || few_rows);
  }

  // A tile whose 64 slots are its 64 logical positions for every row of the item.
  template <class T>
  void SharedTile(int64_t tile) {
    const int64_t slot = tile * kTile;
    // The last row's own position bounds what any row sees; a tree's shared tiles are committed whole.
    const int64_t seen =
        segment_.parents.empty() ? Position(segment_, item_.begin + item_.count - 1) + 1 - slot : kTile;
    const int64_t n = std::min<int64_t>(kTile, seen);
    if constexpr (!std::is_same_v<T, int8_t>) {
      if (Direct<T>(rows_ <= kDirectRows)) {
        const T* keys[kTile / kGroup];
        const T* values[kTile];
        for (int g = 0; g < kTile / kGroup; ++g) {
          keys[g] = Keys<T>(slot + g * kGroup);
          const T* first = Values<T>(slot + g * kGroup);
          for (int j = 0; j < kGroup; ++j) values[g * kGroup + j] = first + j * head_dim_;
        }
        DotRows(q_, rows_, keys, head_dim_, scores_, kTile);
        UpdateTile(0, rows_, tile);
        AccumulateRows(scores_, rows_, values, n, width_, sum_);
        return;
      }
    }
    const float* wide_keys[kTile / kGroup];
    const float* wide_values[kTile];
    for (int g = 0; g < kTile / kGroup; ++g) {
      float* to = wide_keys_ + g * kGroup * head_dim_;
      if (g * kGroup < n) WidenKeys<T>(slot + g * kGroup, to);
      wide_keys[g] = to;
    }
    for (int64_t j = 0; j < kTile; ++j) {
      wide_values[j] = wide_values_ + j * width_;
      if (j < n) WidenValue<T>(slot + j, wide_values_ + j * width_);
    }
    DotRows(q_, rows_, wide_keys, head_dim_, scores_, kTile);
    UpdateTile(0, rows_, tile);
    AccumulateRows(scores_, rows_, wide_values, n, width_, sum_);
  }

  // Tiles that hold tree rows. Scores are computed slot by slot for all rows at once, then each row takes its
  // ancestors' scores and values in logical order.
  template <class T>
  void Tail(int64_t tail_tile) {
    const int64_t base = tail_tile * kTile, stride = problem_.tail_slots();
    const int64_t end = segment_.past + item_.begin + item_.count;
    for (int64_t slot = base; slot < end; slot += kTile) {
      using Read = std::conditional_t<std::is_same_v<T, int8_t>, float, T>;
      const Read* keys[kTile / kGroup];
      for (int g = 0; g < kTile / kGroup; ++g) {
        if constexpr (std::is_same_v<T, int8_t>) {
          keys[g] = wide_keys_ + g * kGroup * head_dim_;
          WidenKeys<T>(slot + g * kGroup, wide_keys_ + g * kGroup * head_dim_);
        } else {
          keys[g] = Keys<T>(slot + g * kGroup);
        }
      }
      DotRows(q_, rows_, keys, head_dim_, tail_ + (slot - base), stride);
    }
    for (int64_t i = 0; i < item_.count; ++i) {
      const int64_t row = item_.begin + i, position = segment_.past + Depth(segment_, row);
      for (int64_t tile = std::max(tail_tile, item_.first_tile); tile <= position / kTile; ++tile) {
        if (tile >= item_.last_tile) break;
        TailTile<T>(i, row, position, tile, base, stride);
        if ((tile + 1) % kTilesPerChunk == 0) FinishChunk(i * group_, group_);
      }
    }
  }

  template <class T>
  void TailTile(int64_t i, int64_t row, int64_t position, int64_t tile, int64_t base, int64_t stride) {
    const int64_t n = std::min<int64_t>(kTile, position + 1 - tile * kTile);
    int64_t slots[kTile];
    int64_t logical = position;
    for (int64_t node = row; logical >= tile * kTile && logical >= segment_.past; --logical) {
      if (logical < tile * kTile + kTile) slots[logical - tile * kTile] = segment_.past + node;
      node = segment_.parents[static_cast<size_t>(node)];
    }
    for (; logical >= tile * kTile; --logical) slots[logical - tile * kTile] = logical;
    for (int64_t r = i * group_; r < (i + 1) * group_; ++r) {
      float* scores = scores_ + r * kTile;
      for (int64_t j = 0; j < n; ++j) scores[j] = tail_[r * stride + slots[j] - base];
      std::fill(scores + n, scores + kTile, 0.0f);
    }
    UpdateRows(i * group_, group_, position, tile);
    const float* scores = scores_ + i * group_ * kTile;
    float* sum = sum_ + i * group_ * width_;
    if constexpr (!std::is_same_v<T, int8_t>) {
      if (Direct<T>(true)) {
        const T* values[kTile];
        for (int64_t j = 0; j < n; ++j) values[j] = Values<T>(slots[j]);
        AccumulateRows(scores, group_, values, n, width_, sum);
        return;
      }
    }
    const float* values[kTile];
    for (int64_t j = 0; j < n; ++j) {
      values[j] = wide_values_ + j * width_;
      WidenValue<T>(slots[j], wide_values_ + j * width_);
    }
    AccumulateRows(scores, group_, values, n, width_, sum);
  }

  void UpdateTile(int64_t first, int64_t count, int64_t tile) {
    for (int64_t r = first; r < first + count; r += group_) {
      const int64_t row = item_.begin + r / group_;
      UpdateRows(r, group_, Position(segment_, row), tile);
    }
  }

  // Turns raw scores of rows that sit at `position` into probabilities relative to the running maximum (of score *
  // base).
  void UpdateRows(int64_t first, int64_t count, int64_t position, int64_t tile) {
    const F32 d;
    const hn::RebindToSigned<F32> di;
    const int32_t end = static_cast<int32_t>(std::clamp<int64_t>(position + 1 - tile * kTile, 0, kTile));
    const int64_t oldest = problem_.shape.window > 0 ? position + 1 - problem_.shape.window : 0;
    const int32_t begin = static_cast<int32_t>(std::clamp<int64_t>(oldest - tile * kTile, 0, kTile));
    const bool masked = begin > 0 || end < kTile;
    const float cap = problem_.shape.softcap;
    const VecF base = hn::Set(d, problem_.base);
    constexpr int kVecs = kTile / kLanes;
    for (int64_t r = first; r < first + count; ++r) {
      float* scores = scores_ + r * kTile;
      if (masked || cap > 0) {
        for (int v = 0; v < kVecs; ++v) {
          VecF s = hn::LoadU(d, scores + v * kLanes);
          if (cap > 0) {
            s = hn::Mul(hn::Set(d, cap), Tanh(d, hn::Mul(s, hn::Set(d, problem_.shape.scale / cap))));
          }
          const auto lane = hn::Iota(di, v * kLanes);
          const auto seen = hn::And(hn::Gt(lane, hn::Set(di, begin - 1)), hn::Lt(lane, hn::Set(di, end)));
          hn::StoreU(hn::IfThenElse(hn::RebindMask(d, seen), s, hn::Set(d, kHidden)), d, scores + v * kLanes);
        }
      }
      VecF top = hn::LoadU(d, scores);
      for (int v = 1; v < kVecs; ++v) top = hn::Max(top, hn::LoadU(d, scores + v * kLanes));
      const float maximum = std::max(maximum_[r], Max(d, top) * problem_.base);
      const VecF shift = hn::Set(d, maximum);
      VecF total = hn::Zero(d);
      for (int v = 0; v < kVecs; ++v) {
        const VecF p = Exp2(d, hn::MulSub(hn::LoadU(d, scores + v * kLanes), base, shift));
        total = hn::Add(total, p);
        hn::StoreU(p, d, scores + v * kLanes);
      }
      float* lanes = total_ + r * kLanes;
      if (maximum > maximum_[r]) {
        const VecF factor = Exp2(d, hn::Set(d, maximum_[r] - maximum));
        for (int64_t i = 0; i < width_; i += kLanes) {
          hn::StoreU(hn::Mul(hn::LoadU(d, sum_ + r * width_ + i), factor), d, sum_ + r * width_ + i);
        }
        hn::StoreU(hn::MulAdd(hn::LoadU(d, lanes), factor, total), d, lanes);
        maximum_[r] = maximum;
      } else {
        hn::StoreU(hn::Add(hn::LoadU(d, lanes), total), d, lanes);
      }
    }
  }

  void Restart(int64_t first, int64_t count) {
    std::fill(sum_ + first * width_, sum_ + (first + count) * width_, 0.0f);
    std::fill(maximum_ + first, maximum_ + first + count, kNothing);
    std::fill(total_ + first * kLanes, total_ + (first + count) * kLanes, 0.0f);
  }

  void FinishChunk(int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r) {
      const float total = Sum(F32(), hn::LoadU(F32(), total_ + r * kLanes));
      MergeRow(sum_ + r * width_, maximum_[r], total, width_, acc_ + r * width_, acc_maximum_[r], acc_total_[r]);
    }
    Restart(first, count);
  }

  void Write() const {
    for (int64_t r = 0; r < rows_; ++r) {
      if (item_.partial != nullptr) {
        float* to = item_.partial + r * (width_ + 2);
        std::memcpy(to, acc_ + r * width_, sizeof(float) * static_cast<size_t>(width_));
        to[width_] = acc_maximum_[r];
        to[width_ + 1] = acc_total_[r];
        continue;
      }
      const int64_t row = QueryRow(r);
      const float inverse = 1.0f / acc_total_[r];
      for (int64_t i = 0; i < head_dim_; ++i) problem_.out[row * head_dim_ + i] = acc_[r * width_ + i] * inverse;
      if (problem_.lse != nullptr) problem_.lse[row] = Lse(acc_maximum_[r], acc_total_[r]);
    }
  }

  const Problem& problem_;
  const Item& item_;
  const AttentionSegment& segment_;
  const int64_t group_, width_, head_dim_, rows_;
  float *q_, *sum_, *acc_, *scores_, *wide_keys_, *wide_values_;
  float *maximum_, *total_, *acc_maximum_, *acc_total_, *tail_;
};

}  // namespace

void RunItem(const Problem& problem, const Item& item, float* scratch) {
  Worker worker(problem, item, scratch);
  switch (problem.layer.dtype) {
    case DType::kF16:
      return worker.Run<Half>();
    case DType::kQ8_0:
      return worker.Run<int8_t>();
    default:
      return worker.Run<float>();
  }
}

// Merges `chunks` partials of one (row, head), `step` floats apart, in chunk order, into partial 0.
void MergePartials(float* partials, int64_t chunks, int64_t step, int64_t width) {
  float maximum = partials[width], total = partials[width + 1];
  for (int64_t chunk = 1; chunk < chunks; ++chunk) {
    const float* part = partials + chunk * step;
    MergeRow(part, part[width], part[width + 1], width, partials, maximum, total);
  }
  partials[width] = maximum;
  partials[width + 1] = total;
}

}  // namespace cambium::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cambium {

HWY_EXPORT(RunItem);
HWY_EXPORT(MergePartials);

namespace {

// Below this many multiply-adds a barrier costs more than it saves.
constexpr int64_t kInlineWork = int64_t{1} << 16;
// With fewer tasks than this, a long context is also cut into chunks.
constexpr int64_t kEnoughTasks = 24;

int64_t TileCount(const AttentionSegment& segment, int64_t begin, int64_t count) {
  if (segment.parents.empty()) return Position(segment, begin + count - 1) / 64 + 1;
  int64_t deepest = 0;
  for (int64_t row = begin; row < begin + count; ++row) deepest = std::max(deepest, Depth(segment, row));
  return (segment.past + deepest) / 64 + 1;
}

}  // namespace

void Attention(ThreadPool& pool, Workspace& workspace, const AttentionShape& shape, const KvLayer& layer,
               std::span<const AttentionSegment> segments, Tensor q, Tensor out, Tensor lse) {
  Check(shape.heads % shape.kv_heads == 0, "query heads are a multiple of kv heads");
  Check(layer.kv_heads == shape.kv_heads && layer.head_dim == shape.head_dim, "cache and attention shapes agree");
  const Workspace::Mark mark = workspace.GetMark();
  constexpr float kLog2E = 1.44269504f;
  const float base = shape.softcap > 0 ? kLog2E : shape.scale * kLog2E;
  Problem problem{shape, layer, q.f32(), out.f32(), lse.f32(), base, 0};
  const int64_t width = problem.width(), group = problem.group();
  int64_t item_rows = ItemRows(problem), tasks = 0, work = 0, longest = 0;
  for (const AttentionSegment& segment : segments) {
    if (!segment.parents.empty()) problem.tail_rows = std::max(problem.tail_rows, segment.count);
    tasks += (segment.count + item_rows - 1) / item_rows * shape.kv_heads;
    Check(!segment.sees_memory() || (shape.window == 0 && segment.past + segment.memory > 0), "a memory is seen whole");
    work += segment.count * (segment.past + segment.keys()) * shape.heads * shape.head_dim;
    longest = std::max(longest, segment.count);
  }
  // Few tasks that the threads cannot share evenly (three kv heads, two threads) are cut further, between rows: a pass
  // of eight rows takes 6 % less.
  if (const int64_t parts = pool.threads() / std::gcd(tasks, int64_t{pool.threads()});
      parts > 1 && tasks < kEnoughTasks) {
    item_rows = std::min(item_rows, (longest + parts - 1) / parts);
  }
  const bool split = tasks < kEnoughTasks;
  struct Merge {
    const AttentionSegment* segment;
    int64_t begin, count, chunks;
    int kv_head;
    float* partials;  // [chunks][count * group][width + 2]
  };
  std::vector<Item> items;
  std::vector<Merge> merges;
  for (const AttentionSegment& segment : segments) {
    // Later rows see more keys: they go first, so that the last tasks are short.
    for (int64_t block = (segment.count - 1) / item_rows; block >= 0; --block) {
      const int64_t begin = block * item_rows, count = std::min(item_rows, segment.count - begin);
      const int64_t tiles = TileCount(segment, begin, count);
      const int64_t chunks = (tiles + kTilesPerChunk - 1) / kTilesPerChunk;
      for (int kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
        if (!split || chunks == 1) {
          items.push_back({&segment, begin, count, kv_head, 0, tiles, nullptr});
          continue;
        }
        const int64_t step = count * group * (width + 2);
        float* partials = workspace.Array<float>(chunks * step);
        merges.push_back({&segment, begin, count, chunks, kv_head, partials});
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
          items.push_back({&segment, begin, count, kv_head, chunk * kTilesPerChunk,
                           std::min(tiles, (chunk + 1) * kTilesPerChunk), partials + chunk * step});
        }
      }
    }
  }
  const int64_t scratch_floats = ScratchFloats(problem);
  const bool alone = work < kInlineWork;
  float* scratch = workspace.Array<float>(scratch_floats * (alone ? 1 : pool.threads()));
  const auto run = [&](int64_t task, int thread) {
    HWY_DYNAMIC_DISPATCH(RunItem)(problem, items[static_cast<size_t>(task)], scratch + thread * scratch_floats);
  };
  if (alone) {
    for (size_t i = 0; i < items.size(); ++i) run(static_cast<int64_t>(i), 0);
  } else {
    pool.Run(static_cast<int64_t>(items.size()), run);
  }
  const auto merge = [&](int64_t task, int) {
    const Merge& m = merges[static_cast<size_t>(task)];
    for (int64_t r = 0; r < m.count * group; ++r) {
      float* partial = m.partials + r * (width + 2);
      HWY_DYNAMIC_DISPATCH(MergePartials)(partial, m.chunks, m.count * group * (width + 2), width);
      const int64_t row = (m.segment->begin + m.begin + r / group) * shape.heads + m.kv_head * group + r % group;
      const float inverse = 1.0f / partial[width + 1];
      for (int64_t i = 0; i < shape.head_dim; ++i) problem.out[row * shape.head_dim + i] = partial[i] * inverse;
      if (problem.lse != nullptr) problem.lse[row] = Lse(partial[width], partial[width + 1]);
    }
  };
  if (segments.size() == 1 && segments[0].count == 1) {
    for (size_t i = 0; i < merges.size(); ++i) merge(static_cast<int64_t>(i), 0);
  } else {
    pool.Run(static_cast<int64_t>(merges.size()), merge);
  }
  workspace.Release(mark);
}

}  // namespace cambium
#endif  // HWY_ONCE
