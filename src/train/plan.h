#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cambium/train.h"
#include "io/tokenizer.h"
#include "train/trainer.h"

namespace cambium {

// Runs a small micro-batch, and then one of the largest size if that is sure to fit (else kResource with the numbers).
// Changes gradients and nothing else.
TrainPlan MakePlan(Trainer& trainer, Transformer& model, const std::vector<Example>& examples,
                   const BatchOptions& batch, int ranks = 1);

// The example's text in runs of what is trained on and what is not; at most `max_tokens`.
std::vector<PreviewPart> PreviewParts(const Example& example, const Tokenizer& tokenizer, int64_t max_tokens = 300);
// The same with what is trained on marked: in green where `color`, else in [brackets].
std::string MaskPreview(const Example& example, const Tokenizer& tokenizer, bool color, int64_t max_tokens = 300);

}  // namespace cambium
