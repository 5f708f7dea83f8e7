#pragma once

#include <string>

#include "base/parallel.h"
#include "model/weights.h"

namespace cambium {

// Writes weights that were changed since they were loaded from `base`, decoded to f32, with everything else that `base`
// holds: `directory`/model.gguf where the base is a GGUF file, else a Hugging Face directory's config.json,
// model.safetensors and tokenizer. Returns the path that LoadWeights takes.
std::string SaveWeights(ThreadPool& pool, const ModelWeights& weights, const std::string& base,
                        const std::string& directory);

}  // namespace cambium
