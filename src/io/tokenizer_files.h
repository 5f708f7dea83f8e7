#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "io/tokenizer.h"

namespace cambium {

class GgufWriter;

// Ours, beside GGUF's eos, eot and eom: where a model has more end tokens than those.
inline constexpr const char* kGgufEndTokens = "cambium.eos_token_ids";

// A template other than the default, by its name behind this (gguf-py's constants.py, Keys.Tokenizer.CHAT_TEMPLATE_N),
// and the list of these names.
inline constexpr std::string_view kGgufNamedTemplate = "tokenizer.chat_template.";
inline constexpr const char* kGgufTemplateNames = "tokenizer.chat_templates";

// Calls `use` with what a tokenizer.json and the files beside it say; the spec's views die with the call.
void WithTokenizerJson(const std::string& path, const std::function<void(const TokenizerSpec&)>& use);

// tokenizer.ggml.* and tokenizer.chat_template. Ids from the last piece up to `vocab` become unused tokens. kData if
// the way it cuts words has no name in GGUF.
void SetTokenizer(GgufWriter& writer, const TokenizerSpec& spec, int64_t vocab);

// Writes `directory`/tokenizer.json and tokenizer_config.json.
void WriteTokenizerJson(const TokenizerSpec& spec, const std::string& directory);

}  // namespace cambium
