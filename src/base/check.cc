#include "base/check.h"

#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace cambium {

void Check(bool condition, std::string_view sentence, std::source_location where) noexcept {
  if (condition) return;
  std::fprintf(stderr, "cambium: internal error at %s:%u: %.*s\n", where.file_name(),
               static_cast<unsigned>(where.line()), static_cast<int>(sentence.size()), sentence.data());
  std::abort();
}

size_t CheckedBytes(std::initializer_list<int64_t> factors) {
  int64_t bytes = 1;
  bool wraps = false;
  for (const int64_t factor : factors) {
    wraps |= factor < 0 || __builtin_mul_overflow(bytes, factor, &bytes);
  }
  // Half of the address space: room to round up, and the difference of two addresses stays a ptrdiff_t.
  if (!wraps && bytes <= INT64_MAX / 2) return static_cast<size_t>(bytes);
  std::ostringstream product;
  for (const int64_t factor : factors) {
    if (factor != 1) product << (product.tellp() > 0 ? " x " : "") << factor;
  }
  Fail(ErrorCode::kResource, "out of memory: ", product.str(), " bytes wanted");
}

}  // namespace cambium
