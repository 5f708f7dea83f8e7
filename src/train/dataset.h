#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "cambium/train.h"
#include "io/tokenizer.h"

namespace cambium {

// One training text: tokens, and which of them the model learns to predict (labels other than -100).
struct Example {
  std::vector<int32_t> ids;
  std::vector<uint8_t> trained;  // [ids.size()]; trained[0] is 0: only a trained prompt predicts the first token
  int64_t line = 0;              // in the file, from 1
  int64_t targets() const;
};

struct DatasetOptions {
  std::string format = "auto";   // or chat, completions, text, alpaca, sharegpt, ids, plain
  int64_t max_tokens = 2048;     // longer examples lose their end
  bool train_on_prompt = false;  // not only on the answers
  bool use_template = true;      // completions and alpaca go through the model's chat template, if it has one
  bool prompts = false;          // only what stands before the answer, which need not be there; of a text each line
  bool skip_bad = false;         // count bad lines instead of failing at the first
  std::vector<std::string> ignored_fields;  // of records and messages: passed over, whatever they would change
  int64_t max_line_bytes = int64_t{16} << 20;
};

struct Dataset {
  std::vector<Example> examples;
  DatasetReport report;
};

// SHA-256 of all ids and masks: tells a resumed run that its data changed.
std::string Fingerprint(std::span<const Example> examples);

// Reads `path`: JSON lines, one JSON array, or plain text (see docs/training.md). kData "PATH: line L: WHY" for the
// first bad line unless skip_bad; kData if nothing remains to train on. With `prompts` a prompt of max_tokens is bad.
Dataset LoadDataset(const std::string& path, const Tokenizer& tokenizer, const DatasetOptions& options);

// Moves a share of the examples, chosen by `seed`, to a second data set; at least one stays in each. kUsage unless
// 0 < share < 1 and there are two examples.
Dataset SplitValidation(Dataset& data, double share, uint64_t seed);

}  // namespace cambium
