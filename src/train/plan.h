#pragma once

#include <cstdint>
#include <string>

#include "io/tokenizer.h"
#include "train/trainer.h"

namespace cambium {

// What a run will cost, found by two short passes before step 1.
struct TrainPlan {
  int64_t parameters = 0;      // trained numbers
  int64_t steps = 0, rows = 0; // rows of all steps
  int64_t max_rows = 0;        // of one micro-batch
  int64_t peak_bytes = 0;      // resident memory, predicted
  double tokens_per_s = 0, seconds = 0;
};

// resident_before: this process's resident bytes when model and data were loaded and nothing else was. Memory grows
// linearly with the rows of a micro-batch; the line is measured at 128 and 256 rows. Changes gradients and nothing else.
TrainPlan MakePlan(Trainer& trainer, Transformer& model, const std::vector<Example>& examples,
                   const BatchOptions& batch, int64_t resident_before);

// The example's text with what is trained on marked: in green where `color`, else in [brackets]. At most `max_tokens`.
std::string MaskPreview(const Example& example, const Tokenizer& tokenizer, bool color, int64_t max_tokens = 300);

// Resident memory of this process, now and at its highest; 0 where the system does not say.
int64_t ResidentBytes();
int64_t PeakResidentBytes();

}  // namespace cambium
