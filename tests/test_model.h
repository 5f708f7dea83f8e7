#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace cambium {

// The default model for tests that need a real one; empty if this machine has none (the test then skips).
inline std::string DefaultTestModel() {
  const auto env = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  std::string path = env("CAMBIUM_TEST_MODEL");
  if (path.empty()) {
    std::string cache = env("CAMBIUM_HOME");
    if (cache.empty()) cache = (env("XDG_CACHE_HOME").empty() ? env("HOME") + "/.cache" : env("XDG_CACHE_HOME")) + "/cambium";
    path = cache + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  }
  return std::filesystem::exists(path) ? path : "";
}

}  // namespace cambium
