// A request in one piece and byte by byte: both say the same, and what is accepted keeps to the limits. The first byte
// cuts the pieces of a third reading.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "server/http_parser.h"

namespace {

using namespace cambium::server;

struct Outcome {
  int status = 0;
  bool done = false;
  size_t taken = 0;
  HttpRequest request;
};

Outcome Parse(std::string_view bytes, size_t step) {
  static constexpr HttpLimits kLimits = {
      .target = 64, .head = 512, .fields = 8, .body = 256, .chunk_line = 16, .trailer = 64};
  HttpParser parser(kLimits);
  Outcome outcome;
  try {
    while (outcome.taken < bytes.size() && !parser.done()) {
      const size_t count = parser.Feed(bytes.substr(outcome.taken, step));
      if (count == 0) __builtin_trap();
      outcome.taken += count;
    }
  } catch (const HttpError& error) {
    outcome.status = error.status;
  }
  outcome.done = parser.done();
  outcome.request = parser.request();
  const HttpRequest& r = outcome.request;
  if (r.body.size() > kLimits.body || r.headers.size() > kLimits.fields || r.path.size() > kLimits.target)
    __builtin_trap();
  return outcome;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const Outcome whole = Parse(bytes, bytes.size() + 1);
  for (const size_t step : {size_t{1}, size_t{data[0]} + 1}) {
    const Outcome cut = Parse(bytes, step);
    if (cut.status != whole.status || cut.done != whole.done) __builtin_trap();
    if (whole.done && (cut.taken != whole.taken || cut.request.body != whole.request.body)) __builtin_trap();
  }
  return 0;
}
