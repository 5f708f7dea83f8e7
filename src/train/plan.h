#pragma once

#include <cstdint>
#include <string>

#include "io/tokenizer.h"
#include "train/trainer.h"

namespace cambium {

// Runs a small micro-batch, and then one of the largest size if that is sure to fit (else kResource with the numbers).
// Changes gradients and nothing else.
TrainPlan MakePlan(Trainer& trainer, Transformer& model, const std::vector<Example>& examples,
                   const BatchOptions& batch);

// The example's text with what is trained on marked: in green where `color`, else in [brackets]. At most `max_tokens`.
std::string MaskPreview(const Example& example, const Tokenizer& tokenizer, bool color, int64_t max_tokens = 300);

}  // namespace cambium
