#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace cambium {

void Check(bool condition, std::string_view sentence, std::source_location where) noexcept {
  if (condition) return;
  std::fprintf(stderr, "cambium: internal error at %s:%u: %.*s\n", where.file_name(),
               static_cast<unsigned>(where.line()), static_cast<int>(sentence.size()), sentence.data());
  std::abort();
}

}  // namespace cambium
