#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "train/dataset.h"

namespace cambium {

// Where a run stands in its data: `position` examples of epoch `epoch` (from 0) are used.
struct DataCursor {
  int64_t epoch = 0, position = 0;
};

struct BatchOptions {
  int64_t batch_size = 4;  // examples a micro-batch, if pack_rows is 0
  int64_t pack_rows = 0;   // rows a micro-batch: as many examples, in order, as fit; each remains its own sequence
  int64_t accumulate = 1;  // micro-batches a step; the last step of an epoch may have fewer
  bool shuffle = true;
  uint64_t seed = 0;
};

// Cuts a data set into micro-batches and steps; a pure function of options and cursor.
class Batches {
 public:
  Batches(std::span<const Example> examples, const BatchOptions& options);

  // The examples of one step, by micro-batch.
  struct Step {
    std::vector<std::vector<const Example*>> micro;
    int64_t targets = 0, rows = 0;
  };
  // The step at `cursor`, which moves behind it.
  Step Next(DataCursor& cursor);
  int64_t StepsOf(int64_t epoch);
  int64_t MaxRows(int64_t epoch);  // of any micro-batch

 private:
  const std::vector<int32_t>& Order(int64_t epoch);
  std::span<const Example> examples_;
  BatchOptions options_;
  int64_t epoch_ = -1;  // that order_ is of
  std::vector<int32_t> order_;
};

}  // namespace cambium
