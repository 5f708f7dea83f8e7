#include "train/batches.h"

#include <algorithm>
#include <numeric>

#include "base/random.h"

namespace cambium {

Batches::Batches(std::span<const Example> examples, const BatchOptions& options)
    : examples_(examples), options_(options) {}

// Fisher-Yates, each draw a function of (seed, epoch, place).
const std::vector<int32_t>& Batches::Order(int64_t epoch) {
  if (epoch == epoch_) return order_;
  epoch_ = epoch;
  order_.resize(examples_.size());
  std::iota(order_.begin(), order_.end(), 0);
  if (options_.shuffle) {
    const Philox noise(options_.seed);
    for (size_t i = order_.size(); i > 1; --i) {
      const Philox::Block b = noise(i, static_cast<uint64_t>(epoch));
      // The high word of a 64 x 64 bit product: uniform in [0, i) but for 2^-64.
      const uint64_t draw = uint64_t{b[0]} << 32 | b[1];
      const size_t j = static_cast<size_t>(static_cast<unsigned __int128>(draw) * i >> 64);
      std::swap(order_[i - 1], order_[j]);
    }
  }
  return order_;
}

Batches::Step Batches::Next(DataCursor& cursor) {
  const std::vector<int32_t>& order = Order(cursor.epoch);
  const int64_t count = static_cast<int64_t>(order.size());
  Step step;
  while (cursor.position < count && static_cast<int64_t>(step.micro.size()) < options_.accumulate) {
    std::vector<const Example*>& micro = step.micro.emplace_back();
    for (int64_t rows = 0; cursor.position < count; ++cursor.position) {
      const Example& example = examples_[static_cast<size_t>(order[static_cast<size_t>(cursor.position)])];
      const int64_t size = static_cast<int64_t>(example.ids.size());
      const bool full = options_.pack_rows > 0 ? !micro.empty() && rows + size > options_.pack_rows
                                               : static_cast<int64_t>(micro.size()) == options_.batch_size;
      if (full) break;
      micro.push_back(&example);
      rows += size;
      step.rows += size;
      step.targets += example.targets();
    }
  }
  if (cursor.position == count) cursor = {cursor.epoch + 1, 0};
  return step;
}

int64_t Batches::StepsOf(int64_t epoch) {
  int64_t steps = 0;
  for (DataCursor cursor{epoch, 0}; cursor.epoch == epoch; ++steps) Next(cursor);
  return steps;
}

int64_t Batches::MaxRows(int64_t epoch) {
  int64_t most = 0;
  for (DataCursor cursor{epoch, 0}; cursor.epoch == epoch;) {
    for (const auto& micro : Next(cursor).micro) {
      int64_t rows = 0;
      for (const Example* example : micro) rows += static_cast<int64_t>(example->ids.size());
      most = std::max(most, rows);
    }
  }
  return most;
}

}  // namespace cambium
