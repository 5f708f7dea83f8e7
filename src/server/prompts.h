#pragma once

#include <cstdint>
#include <vector>

#include "server/fields.h"
#include "server/service.h"

namespace cambium::server {

// A field that holds a text, token ids, or a list of either, as ids; nothing is empty.
std::vector<std::vector<int32_t>> ReadPrompts(const Fields& fields, const char* name, const Model& model, bool add_bos);

// A list of token ids, each in the vocabulary.
std::vector<int32_t> ReadIds(const Json& list, const std::string& where, const Model& model);

}  // namespace cambium::server
