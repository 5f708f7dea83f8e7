#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace cambium {

// How a Hugging Face-compatible hub is reached, and where its files are kept.
struct HubSettings {
  std::string endpoint = "https://huggingface.co";
  std::string token;     // sent as a bearer token to the endpoint's own host; empty: none
  std::string cache;     // the folder that holds models--org--name
  bool offline = false;  // use only what is cached
  int retry_wait_ms = 1000;
};
// From HF_ENDPOINT, HF_TOKEN, HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, HOME and HF_HUB_OFFLINE, as huggingface_hub does.
HubSettings HubSettingsFromEnvironment();

// "org/name" or "org/name:file"; kUsage if it is neither.
struct HubName {
  std::string repository;  // org/name
  std::string file;        // a file's path, or a part of a GGUF file's name such as Q4_K_M; may be empty
};
HubName ParseHubName(const std::string& name);
bool LooksLikeHubName(const std::string& name);

using PullProgress = std::function<void(const std::string& file, uint64_t done, uint64_t total)>;

// Downloads what is missing of a model and gives the path of its GGUF file or of its directory. Interrupted downloads
// resume; each file's size is checked, and its SHA-256 where the hub states it. Without a file name it takes the
// config, tokenizer and safetensors files, or the only GGUF file of the repository.
std::string Pull(const HubSettings& settings, const HubName& name, const PullProgress& progress = {});

// The same for a model that is cached already; empty if it is not, or not whole.
std::string FindInHubCache(const HubSettings& settings, const HubName& name);

// Whether a server's path for a file is safe to create: relative, no "..", nothing hidden, no control characters.
bool IsSafeHubPath(const std::string& path);

// <cache>/models--org--name
std::string HubFolder(const HubSettings& settings, const std::string& repository);

// The files of a repository that make a model; kData, listing the choices, if they do not say which.
std::vector<std::string> ChooseHubFiles(const HubName& name, const std::vector<std::string>& all);

}  // namespace cambium
