#include "server/training_runs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <sstream>

#include "cambium/error.h"
#include "io/atomic_file.h"
#include "io/json.h"

namespace cambium::server {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostRuns = 500, kMostMetrics = size_t{1} << 20, kLogTail = 8192, kFirstLine = size_t{1} << 20;

// A part of a regular file; empty where it is none. A pipe or a link is not opened.
std::string ReadPart(const fs::path& path, int64_t from, size_t most, int64_t* size = nullptr) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) return "";
  struct stat status {};
  std::string bytes;
  if (fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode)) {
    if (size != nullptr) *size = status.st_size;
    if (from < 0) from = std::max<int64_t>(0, status.st_size + from);
    bytes.resize(static_cast<size_t>(std::clamp<int64_t>(status.st_size - from, 0, static_cast<int64_t>(most))));
    const ssize_t count = pread(descriptor, bytes.data(), bytes.size(), from);
    bytes.resize(static_cast<size_t>(std::max<ssize_t>(count, 0)));
  }
  close(descriptor);
  return bytes;
}

// Null where it is no JSON, or more than a run writes.
Json ParseLine(std::string_view line) {
  try {
    return ParseOrderedJson(line, "a line", {.max_depth = 16, .max_values = size_t{1} << 16});
  } catch (const Error&) {
    return nullptr;
  }
}

// Another process holds the run's lock. The kernel's list is read: taking the lock, if only for a moment, could turn a
// run away that begins just then.
bool IsLocked(const fs::path& run) {
  struct stat status {};
  if (lstat((run / ".lock").c_str(), &status) != 0) return false;
  char inode[64];
  std::snprintf(inode, sizeof inode, "%02x:%02x:%lu ", major(status.st_dev), minor(status.st_dev),
                static_cast<unsigned long>(status.st_ino));
  std::ifstream locks("/proc/locks");
  for (std::string line; std::getline(locks, line);) {
    if (line.find("FLOCK") != line.npos && line.find(inode) != line.npos) return true;
  }
  return false;
}

bool HasResult(const fs::path& run) {
  constexpr const char* kResults[] = {"adapter_model.safetensors", "prefix.safetensors",
                                      "heads.safetensors",         "model.gguf",
                                      "model.safetensors",         "adapter_config.json"};
  return std::ranges::any_of(kResults, [&](const char* name) { return fs::is_regular_file(run / name); });
}

std::string StateOf(const fs::path& run, const std::string& name, const TrainingJobs& jobs) {
  const auto running = jobs.running();
  if (running && running->name == name) return running->stopping ? "stopping" : "running";
  if (IsLocked(run)) return "running";
  const Json end = FirstJsonLine(run / kRunExit);
  if (end.is_object() && end.contains("code") && end["code"].is_number_integer()) {
    const int code = end["code"];
    return code == 0 ? "done" : code == 5 || code > 128 ? "stopped" : "failed";
  }
  return HasResult(run) ? "done" : "stopped";
}

// The last line of metrics.jsonl that has a loss, or null.
Json LastMetrics(const fs::path& run) {
  const std::string tail = ReadPart(run / "metrics.jsonl", -4096, 4096);
  for (size_t end = tail.rfind('\n'); end != tail.npos && end > 0;) {
    const size_t begin = tail.rfind('\n', end - 1);
    const Json line = ParseLine(std::string_view(tail).substr(begin + 1, end - begin - 1));
    if (line.is_object() && line.contains("loss")) return line;
    end = begin;
  }
  return nullptr;
}

// kB of /proc/PID/status as bytes; 0 where it does not say.
int64_t ProcessMemory(pid_t pid, const char* field) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field)) return std::atoll(line.c_str() + std::strlen(field) + 1) << 10;
  }
  return 0;
}

int64_t ChangedAt(const fs::path& path) {
  struct stat status {};
  return lstat(path.c_str(), &status) == 0 ? status.st_mtime : 0;
}

Json Summary(const fs::path& run, const std::string& name, const TrainingJobs& jobs) {
  const Json request = FirstJsonLine(run / kRunRequest), plan = FirstJsonLine(run / kRunPlan);
  const auto of = [](const Json& object, const char* key) {
    return object.is_object() && object.contains(key) ? object[key] : Json();
  };
  return {{"name", name},
          {"state", StateOf(run, name, jobs)},
          {"kind", of(request, "graft")},
          {"started", of(request, "started")},
          {"changed", std::max(ChangedAt(run), ChangedAt(run / "metrics.jsonl"))},
          {"steps", of(plan, "steps")},
          {"last", LastMetrics(run)}};
}

bool IsRun(const fs::path& path) {
  if (!fs::is_directory(fs::symlink_status(path))) return false;
  return fs::exists(path / "metrics.jsonl") || fs::exists(path / kRunRequest);
}

// The whole lines behind `after`; a file that has become shorter is read from its beginning.
void AddMetrics(const fs::path& run, int64_t after, Json& answer) {
  int64_t size = 0;
  std::string bytes = ReadPart(run / "metrics.jsonl", after, kMostMetrics, &size);
  const bool anew = after > size;
  if (anew) bytes = ReadPart(run / "metrics.jsonl", after = 0, kMostMetrics, &size);
  const size_t end = bytes.rfind('\n');
  bytes.resize(end == bytes.npos ? 0 : end + 1);
  Json lines = Json::array();
  std::istringstream text(bytes);
  for (std::string line; std::getline(text, line);) {
    Json value = ParseLine(line);
    if (value.is_object()) lines.push_back(std::move(value));
  }
  answer["metrics"] = std::move(lines);
  answer["from"] = after;
  answer["next"] = after + std::ssize(bytes);
  answer["more"] = !bytes.empty() && after + std::ssize(bytes) < size && bytes.size() + 65536 > kMostMetrics;
}

}  // namespace

bool IsRunName(std::string_view name) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  };
  return !name.empty() && name.size() <= 64 && name[0] != '.' && name[0] != '-' && std::ranges::all_of(name, plain);
}

fs::path RunPath(const std::string& root, const std::string& name) {
  const fs::path path = fs::path(root) / name;
  if (!IsRunName(name) || !IsRun(path)) {
    throw ApiError{404, "there is no run `" + name.substr(0, 80) + "`", "name", "not_found"};
  }
  return path;
}

Json FirstJsonLine(const fs::path& path) {
  const std::string bytes = ReadPart(path, 0, kFirstLine);
  return ParseLine(std::string_view(bytes).substr(0, bytes.find('\n')));
}

std::string LogEnd(const fs::path& path, size_t bytes) {
  std::string text = ReadPart(path, -static_cast<int64_t>(bytes), bytes);
  // Not from the middle of a line.
  if (text.size() == bytes) text.erase(0, text.find('\n') == text.npos ? 0 : text.find('\n') + 1);
  return text;
}

void WriteRunFile(const fs::path& path, std::string_view text) {
  AtomicFile file(path.string());
  file.Write(text);
  file.Commit();
}

Json RunsJson(const std::string& root, const TrainingJobs& jobs) {
  std::vector<std::pair<int64_t, std::string>> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root, error)) {
    const std::string name = entry.path().filename().string();
    if (IsRunName(name) && IsRun(entry.path())) names.emplace_back(ChangedAt(entry.path()), name);
  }
  if (error) throw ApiError{500, "the directory of --runs cannot be read", "", ""};
  std::ranges::sort(names, std::greater());
  Json list = Json::array();
  for (size_t i = 0; i < std::min(names.size(), kMostRuns); ++i) {
    list.push_back(Summary(fs::path(root) / names[i].second, names[i].second, jobs));
  }
  return list;
}

Json RunJson(const std::string& root, const std::string& name, int64_t after, const TrainingJobs& jobs) {
  const fs::path run = RunPath(root, name);
  Json answer = Summary(run, name, jobs);
  AddMetrics(run, after, answer);
  answer["plan"] = FirstJsonLine(run / kRunPlan);
  answer["request"] = FirstJsonLine(run / kRunRequest);
  answer["exit"] = FirstJsonLine(run / kRunExit);
  answer["log"] = LogEnd(run / kRunLog, kLogTail);
  answer["memory"] = nullptr;
  const auto running = jobs.running();
  if (running && running->name == name) {
    answer["memory"] = {{"now", ProcessMemory(running->pid, "VmRSS:")},
                        {"peak", ProcessMemory(running->pid, "VmHWM:")}};
  }
  return answer;
}

}  // namespace cambium::server
