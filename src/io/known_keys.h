#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace cambium {

class GgufFile;

// The keys of a model's files, sorted (docs/configuration.md): honoured, harmless, or refused by name. A refused key
// that is set to more than "does nothing" is kData naming file, field and value; keys in no list are warned of, once
// for a file. `path` names the file.
void CheckModelKeys(const nlohmann::json& config, const std::string& path);       // config.json, without its wrapper
void CheckGenerationKeys(const nlohmann::json& config, const std::string& path);  // generation_config.json
void CheckTokenizerKeys(const nlohmann::json& config, const std::string& path);   // tokenizer_config.json
void CheckGgufKeys(const GgufFile& file);                                         // a model's metadata

}  // namespace cambium
