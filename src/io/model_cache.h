#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace cambium {

// CAMBIUM_HOME, else XDG_CACHE_HOME/cambium, else ~/.cache/cambium.
std::string CacheHome();

// A model that can be named without a path: in <CacheHome()>/models (by file name) or in the hub's cache (org/name).
struct CachedModel {
  std::string name;
  std::string path;  // a .gguf file, or a directory with config.json
  uint64_t bytes = 0;
  bool in_hub_cache = false;
};
std::vector<CachedModel> ListModels();  // sorted by name

// The path behind MODEL: a GGUF file, a directory that holds a model, an alias ("smollm2"), a cached file's name with
// or without .gguf, or org/name[:file] in the hub's cache. kData, saying what to do, if it is none of them.
std::string ResolveModel(const std::string& model);

// Deletes a cached model and gives the bytes freed. Takes ListModels' names, not paths; kUsage if there is none.
uint64_t RemoveModel(const std::string& name);

}  // namespace cambium
