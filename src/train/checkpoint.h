#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "io/safetensors.h"

namespace cambium {

// Holds `directory` for one writer while it lives; the kernel lets go of it even after SIGKILL. Makes the directory.
// kUsage if another process holds it; kResource if it cannot be written.
class RunLock {
 public:
  explicit RunLock(const std::string& directory);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int descriptor_ = -1;
};

// The checkpoints step-N/ of a run. Each is written as step-N.tmp/: tensors.safetensors, state.json, and at last
// manifest.json with the size and SHA-256 of both; all synced, then renamed. So a directory named step-N is whole
// unless the disk damaged it, and Load finds that out.
class CheckpointStore {
 public:
  CheckpointStore(std::string directory, int keep);

  // Then removes all but the newest `keep` (at least 2). kResource if the disk is full; no step-N appears then.
  // `more` writes files of its own beside them, which Load does not look at.
  using More = std::function<void(const std::string& directory)>;
  void Save(int64_t step, const nlohmann::json& state, std::vector<TensorToWrite> tensors, const More& more = nullptr);

  struct Loaded {
    int64_t step = 0;
    std::string path;  // of step-N
    nlohmann::json state;
    std::unique_ptr<SafetensorsFile> tensors;
  };
  // The newest whole checkpoint; damaged ones are passed over, each with a line in `skipped`.
  std::optional<Loaded> LoadNewest(std::vector<std::string>& skipped) const;
  // One checkpoint; kData naming the file that is damaged or missing.
  static Loaded Load(const std::string& path);

  // Removes the damaged ones that LoadNewest passed over, so that they do not count as kept.
  void RemoveNewerThan(int64_t step);
  // The step numbers present, ascending, whole or not.
  std::vector<int64_t> Steps() const;
  const std::string& directory() const { return directory_; }

 private:
  std::string PathOf(int64_t step) const;
  std::string directory_;
  int keep_;
};

}  // namespace cambium
