#include "io/model_cache.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "base/nearest.h"
#include "cambium/error.h"
#include "io/gguf.h"
#include "io/hub.h"
#include "io/package_model.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;

fs::path ModelsFolder() { return fs::path(CacheHome()) / "models"; }

// Links count as what they point to.
uint64_t BytesOf(const fs::path& path) {
  std::error_code error;
  if (fs::is_regular_file(path, error)) return fs::file_size(path, error);
  uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path, error)) {
    if (entry.is_regular_file(error)) bytes += fs::file_size(entry.path(), error);
  }
  return bytes;
}

// A directory's model: itself if it has a config.json, else its only GGUF file.
std::string ModelIn(const fs::path& directory) {
  std::error_code error;
  if (fs::is_regular_file(directory / "config.json", error)) return directory.string();
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const bool gguf = entry.path().extension() == ".gguf" && entry.is_regular_file(error);
    if (gguf && !IsLaterGgufPart(entry.path().filename().string())) found.push_back(entry.path());
  }
  if (error) Fail(ErrorCode::kData, directory.string(), ": cannot be read: ", error.message());
  if (found.size() == 1) return found[0].string();
  Fail(ErrorCode::kData, directory.string(),
       found.empty() ? ": holds no model (neither config.json nor a .gguf file)"
                     : ": holds several .gguf files; name one");
}

}  // namespace

std::string CacheHome() {
  const auto get = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value != nullptr ? value : "");
  };
  if (const std::string home = get("CAMBIUM_HOME"); !home.empty()) return home;
  if (const std::string xdg = get("XDG_CACHE_HOME"); !xdg.empty()) return xdg + "/cambium";
  if (const std::string home = get("HOME"); !home.empty()) return home + "/.cache/cambium";
  Fail(ErrorCode::kRuntime, "no cache directory: none of CAMBIUM_HOME, XDG_CACHE_HOME and HOME is set");
}

std::vector<CachedModel> ListModels() {
  std::vector<CachedModel> models;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(ModelsFolder(), error)) {
    const bool gguf = entry.path().extension() == ".gguf" && entry.is_regular_file(error);
    if (IsLaterGgufPart(entry.path().filename().string())) continue;
    if (!gguf && !fs::is_regular_file(entry.path() / "config.json", error)) continue;
    const std::string file = entry.path().filename().string();
    const auto packaged = std::ranges::find(PackagedModels(), file, &PackagedModel::file);
    const std::string name = packaged == PackagedModels().end() ? file : std::string(packaged->alias);
    models.push_back({name, entry.path().string(), BytesOf(entry.path()), false});
  }
  const HubSettings hub = HubSettingsFromEnvironment();
  constexpr std::string_view kPrefix = "models--";
  for (const auto& entry : fs::directory_iterator(hub.cache, error)) {
    std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    name.erase(0, kPrefix.size());
    const size_t separator = name.find("--");
    if (separator == std::string::npos) continue;
    name.replace(separator, 2, "/");
    if (!LooksLikeHubName(name)) continue;
    const fs::path snapshots = entry.path() / "snapshots";
    if (const std::string path = FindInHubCache(hub, {name, ""}); !path.empty()) {
      models.push_back({name, path, BytesOf(path), true});
    } else {  // a repository with several GGUF files, of which some are here
      for (const auto& file : fs::recursive_directory_iterator(snapshots, error)) {
        if (file.path().extension() != ".gguf" || !file.is_regular_file(error)) continue;
        if (IsLaterGgufPart(file.path().filename().string())) continue;
        models.push_back(
            {name + ":" + file.path().filename().string(), file.path().string(), BytesOf(file.path()), true});
      }
    }
  }
  std::sort(models.begin(), models.end(), [](const CachedModel& a, const CachedModel& b) { return a.name < b.name; });
  return models;
}

namespace {

// Names that MODEL may be, as far as this machine knows.
std::vector<std::string> KnownNames() {
  std::vector<std::string> names;
  for (const PackagedModel& packaged : PackagedModels()) names.emplace_back(packaged.alias);
  for (const CachedModel& cached : ListModels()) names.push_back(cached.name);
  return names;
}

}  // namespace

std::string ResolveModel(const std::string& model) {
  std::error_code error;
  if (model.empty()) Fail(ErrorCode::kUsage, "MODEL is empty");
  if (fs::is_directory(model, error)) return ModelIn(model);
  if (fs::exists(model, error)) return model;
  if (const PackagedModel* const packaged = FindPackagedModel(model); packaged != nullptr) {
    const fs::path path = ModelsFolder() / packaged->file;
    if (fs::is_regular_file(path, error)) return path.string();
    Fail(ErrorCode::kData, path.string(), ": the model is not there yet; `cambium pull ", model, "` downloads it");
  }
  if (model.find('/') == std::string::npos) {
    for (const std::string& file : {model, model + ".gguf"}) {
      const fs::path path = ModelsFolder() / file;
      if (fs::is_directory(path, error)) return ModelIn(path);
      if (fs::is_regular_file(path, error)) return path.string();
    }
  } else if (LooksLikeHubName(model)) {
    const std::string path = FindInHubCache(HubSettingsFromEnvironment(), ParseHubName(model));
    if (!path.empty()) return path;
    Fail(ErrorCode::kData, model, ": no such file, and not in the cache; `cambium pull ", model, "` downloads it");
  }
  Fail(ErrorCode::kData, model, ": no such file, and no cached model of that name", NearestHint(model, KnownNames()),
       "; `cambium list` shows those there are");
}

uint64_t RemoveModel(const std::string& name) {
  const std::vector<CachedModel> models = ListModels();
  const auto found = std::find_if(models.begin(), models.end(), [&](const CachedModel& model) {
    return model.name == name || (!model.in_hub_cache && fs::path(model.path).filename() == name) ||
           (!model.in_hub_cache && fs::path(model.path).filename() == name + ".gguf");
  });
  if (found == models.end())
    Fail(ErrorCode::kUsage, name, ": no cached model of that name", NearestHint(name, KnownNames()),
         "; `cambium list` shows those there are");
  std::error_code error;
  if (!found->in_hub_cache) {
    fs::remove_all(found->path, error);
  } else if (name.find(':') == std::string::npos) {
    fs::remove_all(HubFolder(HubSettingsFromEnvironment(), name), error);
  } else {  // one file of a repository: its blob and its link
    fs::remove(fs::canonical(found->path, error), error);
    if (!error) fs::remove(found->path, error);
  }
  if (error) Fail(ErrorCode::kResource, found->path, ": cannot remove: ", error.message());
  return found->bytes;
}

}  // namespace cambium
