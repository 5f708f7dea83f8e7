#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "server/fields.h"
#include "server/training_jobs.h"

// The directories of training runs, one below --runs each, as `train` writes them. Names are plain and links are not
// followed, so that nothing outside is reached.
namespace cambium::server {

// Files of a run that this server has started.
inline constexpr char kRunData[] = "data.jsonl", kRunValid[] = "valid.jsonl", kRunPlan[] = "plan.json",
                      kRunLog[] = "log.txt", kRunRequest[] = "run.json", kRunExit[] = "exit.json";

bool IsRunName(std::string_view name);                                            // letters, digits, . _ -, at most 64
std::filesystem::path RunPath(const std::string& root, const std::string& name);  // ApiError 404 where there is none

// Every run, the latest first: {"name", "state", "kind", "started", "changed", "last"}.
Json RunsJson(const std::string& root, const TrainingJobs& jobs);

// One run with the lines of metrics.jsonl behind byte `after`, its plan, the end of its log, and its memory. `next` is
// where to go on; `more` that there is more already.
Json RunJson(const std::string& root, const std::string& name, int64_t after, const TrainingJobs& jobs);

// The first line of a file of JSON; null where there is none that is whole.
Json FirstJsonLine(const std::filesystem::path& path);
std::string LogEnd(const std::filesystem::path& path, size_t bytes);
void WriteRunFile(const std::filesystem::path& path, std::string_view text);

}  // namespace cambium::server
