#pragma once

#include <string>

#include "cambium/cambium.h"

namespace cambium::cli {

// An answer's tokens by where they came from: a colour a drafter, red where the target went against a draft; without
// colour, {name:drafted} and {!corrected}.
std::string DraftView(const Model& model, const Generation& result, bool color);
// What the colours or marks of DraftView mean, in one line, for the drafters of this answer.
std::string DraftLegend(const Generation& result, bool color);

}  // namespace cambium::cli
