#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/tokenizer.h"
#include "train/trainer.h"

namespace cambium {

// What a run will cost, found by running two micro-batches before step 1.
struct TrainPlan {
  int64_t parameters = 0;      // trained numbers
  int64_t steps = 0, rows = 0; // rows of all steps
  int64_t max_rows = 0;        // of one micro-batch
  int64_t peak_bytes = 0;      // resident memory, predicted
  double tokens_per_s = 0, seconds = 0;
};

// Runs a small micro-batch, and then one of the largest size if that is sure to fit (else kResource with the numbers).
// Changes gradients and nothing else.
TrainPlan MakePlan(Trainer& trainer, Transformer& model, const std::vector<Example>& examples,
                   const BatchOptions& batch);

// The example's text in runs of what is trained on and what is not; at most `max_tokens`.
struct PreviewPart {
  std::string text;
  bool trained;
};
std::vector<PreviewPart> PreviewParts(const Example& example, const Tokenizer& tokenizer, int64_t max_tokens = 300);
// The same with what is trained on marked: in green where `color`, else in [brackets].
std::string MaskPreview(const Example& example, const Tokenizer& tokenizer, bool color, int64_t max_tokens = 300);

// The most resident memory this process had; 0 where the system does not say.
int64_t PeakResidentBytes();

}  // namespace cambium
