#pragma once

#include <string>
#include <utility>
#include <vector>

#include "io/jinja_ast.h"

namespace cambium::jinja {

struct RenderLimits {
  int64_t fuel = 4'000'000;  // see Budget
  size_t max_output = size_t{16} << 20;
};

// Renders the template with these global variables. kData where jinja2 would raise, or at a limit; kUsage where the
// template itself refuses its input (raise_exception).
MarkedText Render(const Template& parsed, std::vector<std::pair<std::string, Value>> globals,
                  const RenderLimits& limits);

}  // namespace cambium::jinja
