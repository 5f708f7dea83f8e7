#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "io/tokenizer.h"

namespace cambium {

// The bytes of `text` that each of its tokens stands for, `ids` being what Tokenizer::Encode made of it. Bytes that
// normalisation dropped belong to no token, and neighbours share those that it joined.
std::vector<Span> TokenPlaces(const Tokenizer& tokenizer, std::string_view text, std::span<const int32_t> ids);

}  // namespace cambium
