#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace cambium {

class GgufFile;
class GgufWriter;
struct HfConfig;

// Which layers of a gemma3 file see a sliding window only, [layers]: by attention.sliding_window_pattern, a period or
// one flag a layer; without it, all but every sixth.
std::vector<uint8_t> GgufSlidingLayers(const GgufFile& file, const std::string& arch, int64_t layers);

std::string GgufArchitecture(const std::string& family);  // of HfConfig's family
std::string HfFamilyOf(const GgufFile& file);  // and back; kData for an architecture that cannot be converted

// HfConfig as GGUF metadata; with llama3 scaling, also the tensor of divisors. kData naming the field that GGUF cannot
// express; with `only_weights`, such fields are left out.
void SetConfig(GgufWriter& writer, const HfConfig& config, bool only_weights = false);
// And back: config.json.
nlohmann::ordered_json HfConfigJson(const GgufFile& file, const std::string& family, const std::string& dtype);

// `directory`/generation_config.json, if there is one: whole under a key of ours, and what GGUF has keys for under
// those.
void SetGenerationConfig(GgufWriter& writer, const std::string& directory);
// And back: generation_config.json; empty where the file says nothing.
nlohmann::ordered_json GenerationConfigJson(const GgufFile& file);

}  // namespace cambium
