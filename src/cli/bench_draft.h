#pragma once

#include <string>
#include <vector>

#include "cli/options.h"

namespace cambium::cli {

struct BenchPrompt {
  std::string id, task;
  std::vector<std::string> turns;  // what the user says, turn by turn; or one raw text
  bool raw = false;
};
// A jsonl of {"id", "task", "turns": [text, ...]}, {"messages": [...]} or, raw, {"prompt": text}; kData naming the
// line.
std::vector<BenchPrompt> ReadBenchPrompts(const std::string& path);
// "a+b" as a list of two.
std::vector<std::string> SplitDrafters(const std::string& text);
// The same ids on every machine; another `stream` shares no prefix.
std::vector<int32_t> RandomIds(const Model& model, int64_t count, uint64_t stream);

// `cambium bench --draft`: plain and drafted decoding of the same prompts in one run.
struct BenchDraftFlags {
  std::vector<std::string> drafters;  // each as generate's --draft; a + joins several to one
  std::vector<std::string> grafts;
  std::string prompts, tree;
  double temperature = 0;
  int64_t seed = 0, rows = 64;
  bool chat = false;  // a raw text goes through the template too
};
void BenchDraft(const BenchDraftFlags& flags, const OutputFlags& output, Engine& engine, int64_t max_tokens,
                int repetitions);

}  // namespace cambium::cli
