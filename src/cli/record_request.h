#pragma once

#include <nlohmann/json.hpp>

#include "cli/options.h"

namespace cambium::cli {

// A record of `generate --jsonl` as a request: "prompt" or "messages" (and "tools"), options by the OpenAI API's names,
// "grafts" and "draft". What it does not say is as `defaults` has it; without a seed, one is made of `defaults`'s and
// the record itself, so that the answer depends on the record alone. kData for a field that is unknown, or of another
// type or range than it should be.
Request RequestOf(const nlohmann::ordered_json& record, const Request& defaults, const std::vector<std::string>& grafts,
                  const Model& model, Adapters& adapters);

}  // namespace cambium::cli
