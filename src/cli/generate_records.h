#pragma once

#include "cli/constraint_flags.h"
#include "cli/options.h"
#include "cli/record_file.h"

namespace cambium::cli {

// `generate --jsonl` and `score --jsonl`: what a machine, or a shard of it, answers at once.
void GenerateRecords(const RecordFlags& records, const GenerateFlags& generate, const ConstraintFlags& constraint,
                     const ModelFlags& model, const OutputFlags& output);
void ScoreRecords(const RecordFlags& records, const std::vector<std::string>& grafts, const ModelFlags& model,
                  const OutputFlags& output, bool special);
void AddRecords(CLI::App& verb, RecordFlags& flags);

}  // namespace cambium::cli
