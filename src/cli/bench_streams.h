#pragma once

#include <string>
#include <vector>

#include "cli/options.h"

namespace cambium::cli {

// `cambium bench --streams`: many requests at once, as llama-batched-bench has them.
struct BenchStreamsFlags {
  std::vector<int64_t> streams;        // how many at once; each is a run
  std::vector<std::string> drafters;   // each a run: as generate's --draft, a + joins several to one; empty = none
  std::vector<std::string> grafts;     // dealt out to the requests in turn; empty = the bare base
  std::string prompts;                 // jsonl as for bench --draft; empty = random tokens
  int64_t prompt = 128, predict = 64;  // tokens in, and out
};
void BenchStreams(const BenchStreamsFlags& flags, const OutputFlags& output, Engine& engine, int repetitions);

}  // namespace cambium::cli
