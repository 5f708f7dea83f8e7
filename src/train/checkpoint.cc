#include "train/checkpoint.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>

#include "cambium/error.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "io/sha256.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;
constexpr const char* kTensors = "tensors.safetensors";
constexpr const char* kState = "state.json";
constexpr const char* kManifest = "manifest.json";

void SyncDirectory(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0 || fsync(descriptor) != 0) {
    const std::string why = std::strerror(errno);
    if (descriptor >= 0) close(descriptor);
    Fail(ErrorCode::kResource, path, ": cannot sync: ", why);
  }
  close(descriptor);
}

void WriteText(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.Write(text);
  file.Commit();
}

}  // namespace

RunLock::RunLock(const std::string& directory) {
  MakeDirectories(directory);
  const std::string path = directory + "/.lock";
  descriptor_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0) Fail(ErrorCode::kResource, path, ": cannot write: ", std::strerror(errno));
  if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const bool held = errno == EWOULDBLOCK;
    const std::string why = std::strerror(errno);
    close(descriptor_);
    if (held) Fail(ErrorCode::kUsage, directory, ": another process is training into this directory");
    Fail(ErrorCode::kResource, path, ": cannot lock: ", why);
  }
}

RunLock::~RunLock() { close(descriptor_); }

CheckpointStore::CheckpointStore(std::string directory, int keep)
    : directory_(std::move(directory)), keep_(std::max(2, keep)) {}

std::string CheckpointStore::PathOf(int64_t step) const { return fmt::format("{}/step-{}", directory_, step); }

void CheckpointStore::Save(int64_t step, const nlohmann::json& state, std::vector<TensorToWrite> tensors,
                           const More& more) {
  MakeDirectories(directory_);
  const std::string path = PathOf(step), temporary = path + ".tmp";
  std::error_code ignored;
  fs::remove_all(temporary, ignored);
  try {
    MakeDirectories(temporary);
    WriteSafetensors(temporary + "/" + kTensors, std::move(tensors));
    WriteText(temporary + "/" + kState, state.dump(1) + "\n");
    if (more) more(temporary);
    nlohmann::json manifest = {{"step", step}};
    for (const char* name : {kTensors, kState}) {
      const std::string file = temporary + "/" + name;
      manifest["files"][name] = {{"bytes", fs::file_size(file)}, {"sha256", FileSha256(file)}};
    }
    WriteText(temporary + "/" + kManifest, manifest.dump(1) + "\n");
    SyncDirectory(temporary);
  } catch (...) {
    fs::remove_all(temporary, ignored);
    throw;
  }
  ReplaceDirectory(temporary, path);  // there may be one of an earlier run that was resumed from further back
  SyncDirectory(directory_);
  WriteText(directory_ + "/latest", fmt::format("step-{}\n", step));

  const std::vector<int64_t> steps = Steps();
  for (size_t i = 0; i + static_cast<size_t>(keep_) < steps.size(); ++i) fs::remove_all(PathOf(steps[i]), ignored);
}

void CheckpointStore::RemoveNewerThan(int64_t step) {
  std::error_code ignored;
  for (const int64_t other : Steps()) {
    if (other > step) fs::remove_all(PathOf(other), ignored);
  }
}

std::vector<int64_t> CheckpointStore::Steps() const {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory_, error)) {
    const std::string name = entry.path().filename().string();
    int64_t step = 0;
    const char* const end = name.data() + name.size();
    if (!name.starts_with("step-")) continue;
    const auto [stop, problem] = std::from_chars(name.data() + 5, end, step);
    if (problem == std::errc() && stop == end) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

CheckpointStore::Loaded CheckpointStore::Load(const std::string& path) {
  Loaded loaded;
  loaded.path = path;
  const std::string manifest_path = path + "/" + kManifest;
  const nlohmann::json manifest = ParseJson(ReadTextFile(manifest_path), manifest_path);
  try {
    loaded.step = manifest.at("step").get<int64_t>();
    for (const char* name : {kTensors, kState}) {
      const nlohmann::json& expected = manifest.at("files").at(name);
      const std::string file = path + "/" + name;
      std::error_code error;
      const uint64_t bytes = fs::file_size(file, error);
      if (error) Fail(ErrorCode::kData, file, ": missing from the checkpoint");
      if (bytes != expected.at("bytes").get<uint64_t>()) {
        Fail(ErrorCode::kData, file, ": ", bytes, " bytes, the manifest says ", expected.at("bytes").dump());
      }
      if (FileSha256(file) != expected.at("sha256").get<std::string>()) {
        Fail(ErrorCode::kData, file, ": the checksum differs from the manifest's");
      }
    }
  } catch (const nlohmann::json::exception&) {
    Fail(ErrorCode::kData, manifest_path, ": not a checkpoint's manifest");
  }
  const std::string state_path = path + "/" + kState;
  loaded.state = ParseJson(ReadTextFile(state_path), state_path);
  loaded.tensors = std::make_unique<SafetensorsFile>(path + "/" + kTensors);
  return loaded;
}

std::optional<CheckpointStore::Loaded> CheckpointStore::LoadNewest(std::vector<std::string>& skipped) const {
  std::vector<int64_t> steps = Steps();
  std::reverse(steps.begin(), steps.end());
  for (const int64_t step : steps) {
    try {
      return Load(PathOf(step));
    } catch (const Error& error) {
      skipped.push_back(error.what());
    }
  }
  return std::nullopt;
}

}  // namespace cambium
