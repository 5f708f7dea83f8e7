#pragma once

#include <string>

#include "cambium/cambium.h"

namespace cambium::cli {

// An SVG picture of a draft and what a pass made of it: the root, the nodes by depth, the accepted path, and the token
// that the target drew where the path ended.
std::string DraftTreeSvg(const Model& model, const DraftTrace& pass);

}  // namespace cambium::cli
