#pragma once

#include <string>

#include "cambium/cambium.h"
#include "decode/verify.h"

namespace cambium::cli {

// An SVG picture of a draft and what became of it: the root, the nodes by depth, the accepted path, and the token that the
// target drew where the path ended.
std::string DraftTreeSvg(const Engine& engine, int32_t root, const Draft& draft, const Verdict& verdict);

}  // namespace cambium::cli
