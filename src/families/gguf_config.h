#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "families/hf_config.h"

namespace cambium {

class GgufFile;
class GgufWriter;

// The keys of an architecture, for writing: each name stands behind "ARCH.".
class GgufKeys {
 public:
  // With `only_weights`, what GGUF cannot express is left out.
  GgufKeys(GgufWriter& writer, const HfConfig& config, bool only_weights);

  void SetInt(const char* key, int64_t value);  // kData for what 32 bits cannot hold
  void SetFloat(const char* key, double value);
  void SetBool(const char* key, bool value);
  // kData: the field of config.json has a value that GGUF has no key for.
  void Inexpressible(std::string_view field) const;

 private:
  GgufWriter& writer_;
  const HfConfig& config_;
  bool only_weights_;
};

// What a model's metadata says. kData naming file, key and value; for a family that is not supported, with those that
// are.
HfConfig ReadGgufConfig(const GgufFile& file);
// And back: HfConfig as metadata; with llama3 scaling, also the tensor of divisors. kData naming the field that GGUF
// cannot express; with `only_weights`, such fields are left out.
void SetConfig(GgufWriter& writer, const HfConfig& config, bool only_weights = false);

// `directory`/generation_config.json, if there is one: whole under a key of ours, and what GGUF has keys for under
// those.
void SetGenerationConfig(GgufWriter& writer, const std::string& directory);
// And back: generation_config.json; empty where the file says nothing.
nlohmann::ordered_json GenerationConfigJson(const GgufFile& file, const HfConfig& config);

}  // namespace cambium
