#include "io/hub.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/check.h"
#include "io/atomic_file.h"
#include "io/download.h"
#include "io/gguf.h"
#include "io/http.h"
#include "io/json.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxListBytes = size_t{64} << 20;

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

bool EndsWith(const std::string& path, std::initializer_list<const char*> endings) {
  return std::any_of(endings.begin(), endings.end(), [&](const char* ending) { return path.ends_with(ending); });
}

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return c < 128 ? std::tolower(c) : c; });
  return text;
}

bool IsPlain(const std::string& text, size_t most) {
  return !text.empty() && text.size() <= most && text[0] != '.' && text.find("..") == std::string::npos &&
         std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return c < 128 && (std::isalnum(c) || c == '-' || c == '_' || c == '.'); });
}

bool IsHex(const std::string& text, size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

void CreateFolders(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) Fail(ErrorCode::kResource, folder.string(), ": cannot create: ", error.message());
}

// The path inside a URL: everything but unreserved characters and slashes in percent form.
std::string Escaped(const std::string& path) {
  std::string out;
  for (unsigned char c : path) {
    if (c < 128 && (std::isalnum(c) || std::strchr("-_.~/", c) != nullptr)) {
      out += static_cast<char>(c);
    } else {
      out += '%';
      out += "0123456789ABCDEF"[c >> 4];
      out += "0123456789ABCDEF"[c & 15];
    }
  }
  return out;
}

struct RemoteFile {
  std::string etag;     // names the blob
  bool sha256 = false;  // the etag is the contents' SHA-256
  uint64_t size = 0;
};

RemoteFile Describe(const HubSettings& settings, const std::string& url, const std::string& what) {
  const HttpHeaders answer = HttpHead(url, settings.token);
  // A redirect (302) to the storage carries the linked headers already.
  if (answer.status != 200 && answer.status / 100 != 3) FailStatus(what, answer.status);
  const bool linked = !answer.Get("x-linked-etag").empty();
  std::string etag = answer.Get(linked ? "x-linked-etag" : "etag");
  if (etag.starts_with("W/")) etag = etag.substr(2);
  std::erase(etag, '"');
  if (!IsPlain(etag, 128)) Fail(ErrorCode::kData, what, ": the hub's etag \"", etag.substr(0, 80), "\" is unusable");
  const std::string size = answer.Get(linked ? "x-linked-size" : "content-length");
  if (size.empty() || size.size() > 18 || size.find_first_not_of("0123456789") != std::string::npos) {
    Fail(ErrorCode::kData, what, ": the hub's size \"", size.substr(0, 80), "\" is no number");
  }
  return {etag, IsHex(etag, 64), std::stoull(size)};
}

// snapshots/<commit>/<file> -> ../../blobs/<etag>
void Link(const fs::path& link, const fs::path& blob) {
  CreateFolders(link.parent_path());
  ReplaceLink(fs::relative(blob, link.parent_path()).string(), link.string());
}

// A GGUF file, with all its parts where it is split.
std::vector<std::string> WithParts(const std::string& first, const std::vector<std::string>& all) {
  std::vector<std::string> files = {first};
  const size_t mark = first.rfind("-00001-of-");
  for (const std::string& file : all) {
    const bool same =
        mark != std::string::npos && file.size() == first.size() && file.starts_with(first.substr(0, mark));
    if (same && IsLaterGgufPart(file) && file.substr(mark + 6) == first.substr(mark + 6)) files.push_back(file);
  }
  return files;
}

// A model's path in a snapshot: its GGUF file, or the directory.
std::string ModelPath(const fs::path& snapshot, const std::vector<std::string>& files) {
  const auto first = std::min_element(files.begin(), files.end());  // of a split model, the first part
  return first != files.end() && first->ends_with(".gguf") ? (snapshot / *first).string() : snapshot.string();
}

}  // namespace

HubSettings HubSettingsFromEnvironment() {
  HubSettings settings;
  if (std::string endpoint = Environment("HF_ENDPOINT"); !endpoint.empty()) settings.endpoint = endpoint;
  while (settings.endpoint.ends_with('/')) settings.endpoint.pop_back();
  settings.token = Environment("HF_TOKEN");
  settings.cache = Environment("HF_HUB_CACHE");
  if (settings.cache.empty()) {
    std::string home = Environment("HF_HOME");
    const std::string xdg = Environment("XDG_CACHE_HOME");
    if (home.empty()) home = (xdg.empty() ? Environment("HOME") + "/.cache" : xdg) + "/huggingface";
    settings.cache = home + "/hub";
  }
  const std::string offline = Lower(Environment("HF_HUB_OFFLINE"));
  settings.offline = offline == "1" || offline == "on" || offline == "yes" || offline == "true";
  return settings;
}

bool LooksLikeHubName(const std::string& name) {
  const size_t colon = std::min(name.find(':'), name.size()), slash = name.find('/');
  return slash < colon && IsPlain(name.substr(0, slash), 96) && IsPlain(name.substr(slash + 1, colon - slash - 1), 96);
}

HubName ParseHubName(const std::string& name) {
  const size_t colon = name.find(':');
  HubName parsed{name.substr(0, colon), colon == std::string::npos ? "" : name.substr(colon + 1)};
  if (!LooksLikeHubName(name)) Fail(ErrorCode::kUsage, name, ": a hub's model is named org/name or org/name:file");
  if (colon != std::string::npos && !IsSafeHubPath(parsed.file)) Fail(ErrorCode::kUsage, name, ": bad file name");
  return parsed;
}

bool IsSafeHubPath(const std::string& path) {
  if (path.empty() || path.size() > 1024 || path.back() == '/') return false;
  for (unsigned char c : path) {
    if (c < 0x20 || c == 0x7f || c == '\\') return false;
  }
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    if (end == begin || path[begin] == '.') return false;  // "", ".", ".." and hidden names
    begin = end + 1;
  }
  return true;
}

std::string HubFolder(const HubSettings& settings, const std::string& repository) {
  std::string folder = "models--" + repository;
  folder.replace(folder.find('/'), 1, "--");
  return settings.cache + "/" + folder;
}

std::vector<std::string> ChooseHubFiles(const HubName& name, const std::vector<std::string>& all) {
  const auto has = [&](const std::string& file) { return std::find(all.begin(), all.end(), file) != all.end(); };
  std::vector<std::string> chosen;
  if (!name.file.empty()) {
    if (has(name.file)) return WithParts(name.file, all);
    for (const std::string& file : all) {
      const bool named = file.ends_with(".gguf") && Lower(file).find(Lower(name.file)) != std::string::npos;
      if (named && !IsLaterGgufPart(file)) chosen.push_back(file);
    }
    if (chosen.size() == 1) return WithParts(chosen[0], all);
    Fail(ErrorCode::kData, name.repository, ": ",
         chosen.empty() ? "no file is named " : "more than one GGUF file matches ", name.file);
  }
  if (has("config.json") && (has("model.safetensors") || has("model.safetensors.index.json"))) {
    const bool sharded = !has("model.safetensors");
    for (const std::string& file : all) {
      if (file.find('/') != std::string::npos) continue;
      const bool weights =
          sharded ? file.starts_with("model-") && file.ends_with(".safetensors") : file == "model.safetensors";
      const bool index = sharded && file == "model.safetensors.index.json";
      const bool other_index = file.ends_with(".index.json") && !index;
      if (weights || (EndsWith(file, {".json", ".jinja", "merges.txt"}) && !other_index)) chosen.push_back(file);
    }
    return chosen;
  }
  for (const std::string& file : all) {
    if (file.ends_with(".gguf") && !IsLaterGgufPart(file)) chosen.push_back(file);
  }
  if (chosen.size() == 1) return WithParts(chosen[0], all);
  if (chosen.empty())
    Fail(ErrorCode::kData, name.repository, ": holds neither safetensors with a config nor GGUF files");
  std::string names;
  for (const std::string& file : chosen) names += (names.empty() ? "" : ", ") + file;
  Fail(ErrorCode::kData, name.repository, ": holds several GGUF files; add :FILE for one of ", names);
}

std::string FindInHubCache(const HubSettings& settings, const HubName& name) {
  const fs::path folder = HubFolder(settings, name.repository);
  std::error_code error;
  if (!fs::is_regular_file(folder / "refs/main", error)) return "";
  std::string commit = ReadTextFile((folder / "refs/main").string(), 4096);
  while (!commit.empty() && std::isspace(static_cast<unsigned char>(commit.back()))) commit.pop_back();
  const fs::path snapshot = folder / "snapshots" / commit;
  if (!IsPlain(commit, 128) || !fs::is_directory(snapshot, error)) return "";
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(snapshot, error)) {
    // A link whose blob is missing is a file that did not come.
    if (entry.is_regular_file(error)) files.push_back(entry.path().lexically_relative(snapshot).string());
  }
  try {
    return ModelPath(snapshot, ChooseHubFiles(name, files));
  } catch (const Error&) {
    return "";
  }
}

std::string Pull(const HubSettings& settings, const HubName& name, const PullProgress& progress) {
  if (settings.offline) {
    const std::string cached = FindInHubCache(settings, name);
    if (cached.empty())
      Fail(ErrorCode::kRuntime, name.repository, ": is not cached, and HF_HUB_OFFLINE forbids a download");
    return cached;
  }
  const std::string list_url = settings.endpoint + "/api/models/" + name.repository + "/revision/main";
  const HttpText list = HttpGetText(list_url, settings.token, kMaxListBytes);
  if (!list.error.empty()) Fail(ErrorCode::kRuntime, name.repository, ": ", settings.endpoint, ": ", list.error);
  if (list.status != 200) FailStatus(name.repository, list.status);
  const nlohmann::json parsed = ParseJson(list.body, list_url);
  const auto text = [&](const nlohmann::json& object, const char* field) -> std::string {
    const auto found = object.is_object() ? object.find(field) : object.end();
    if (!object.is_object() || found == object.end() || !found->is_string()) {
      Fail(ErrorCode::kData, list_url, ": ", field, " is no string");
    }
    return found->get<std::string>();
  };
  const std::string commit = text(parsed, "sha");
  if (!IsHex(commit, 40)) Fail(ErrorCode::kData, list_url, ": sha \"", commit.substr(0, 80), "\" is no commit");
  std::vector<std::string> files;
  if (const auto siblings = parsed.find("siblings"); siblings != parsed.end() && siblings->is_array()) {
    for (const auto& sibling : *siblings) files.push_back(text(sibling, "rfilename"));
  }
  files = ChooseHubFiles(name, files);
  for (const std::string& file : files) {
    if (!IsSafeHubPath(file))
      Fail(ErrorCode::kData, list_url, ": file name ", nlohmann::json(file).dump(), " is unsafe");
  }

  const fs::path folder = HubFolder(settings, name.repository), snapshot = folder / "snapshots" / commit;
  CreateFolders(folder / "blobs");
  CreateFolders(folder / "refs");
  CreateFolders(snapshot);
  for (const std::string& file : files) {
    const std::string url = settings.endpoint + "/" + name.repository + "/resolve/" + commit + "/" + Escaped(file);
    const std::string what = name.repository + ": " + file;
    std::error_code error;
    if (fs::is_regular_file(snapshot / file, error)) continue;
    const RemoteFile remote = Describe(settings, url, what);
    const fs::path blob = folder / "blobs" / remote.etag;
    if (!fs::is_regular_file(blob, error) || fs::file_size(blob, error) != remote.size) {
      Download download{
          url, settings.token, what, remote.size, remote.sha256 ? remote.etag : "", settings.retry_wait_ms};
      if (progress) download.progress = [&](uint64_t done) { progress(file, done, remote.size); };
      FetchFile(download, blob.string());
    }
    Link(snapshot / file, blob);
  }
  AtomicFile ref((folder / "refs/main").string());
  ref.Write(commit);
  ref.Commit();
  return ModelPath(snapshot, files);
}

}  // namespace cambium
