#pragma once

#include <string>
#include <vector>

#include "cli/options.h"

namespace cambium::cli {

// `cambium bench --draft`: plain and drafted decoding of the same prompts in one run.
struct BenchDraftFlags {
  std::vector<std::string> drafters;  // each as generate's --draft; a + joins several to one
  std::vector<std::string> grafts;
  std::string prompts, tree;
  double temperature = 0;
  int64_t seed = 0, rows = 64;
};
void BenchDraft(const BenchDraftFlags& flags, const OutputFlags& output, Engine& engine, int64_t max_tokens,
                int repetitions);

}  // namespace cambium::cli
