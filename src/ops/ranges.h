#pragma once

#include <algorithm>
#include <cstdint>

#include "base/parallel.h"

namespace cambium {

// Elements below which a barrier costs more than the work; a decode step of one row stays inline.
constexpr int64_t kElementsPerTask = int64_t{1} << 15;

// Calls f(begin, end) over [0, count) in pieces of fixed size, so that the cut never depends on the thread count.
template <class F>
void ForRanges(ThreadPool& pool, int64_t count, int64_t piece, const F& f) {
  pool.Run((count + piece - 1) / piece,
           [&](int64_t task, int) { f(task * piece, std::min(count, (task + 1) * piece)); });
}

// Ranges of whole rows of `columns` elements.
template <class F>
void ForRows(ThreadPool& pool, int64_t rows, int64_t columns, const F& f) {
  ForRanges(pool, rows, std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, columns)), f);
}

}  // namespace cambium
