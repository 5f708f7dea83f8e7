#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

namespace cambium {

class GgufFile;

// The keys of a model's files, sorted (docs/configuration.md): honoured, harmless, or refused by name. A refused key
// that is set to more than "does nothing" is kData naming file, field and value; keys in no list are warned of, once
// for a file. `path` names the file.
// config.json, without its wrapper; `own` are honoured by the model's family beside those of all.
void CheckModelKeys(const nlohmann::json& config, const std::string& path, std::span<const std::string_view> own = {});
// generation_config.json; a model with an encoder honours what an answer must begin and end with.
void CheckGenerationKeys(const nlohmann::json& config, const std::string& path, bool has_encoder = false);
void CheckTokenizerKeys(const nlohmann::json& config, const std::string& path);   // tokenizer_config.json
void CheckGgufKeys(const GgufFile& file, std::span<const std::string_view> own = {});  // a model's metadata

}  // namespace cambium
