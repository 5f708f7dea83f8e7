#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "cambium/error.h"

namespace cambium {

// What a JSON text may cost before it is refused.
struct JsonLimits {
  size_t max_bytes = size_t{256} << 20;
  int max_depth = 128;                  // open arrays and objects at once
  size_t max_values = size_t{1} << 25;  // every scalar, array and object counts one
};

// What is wrong with a JSON text, and in which member of the outermost object (empty: in none).
class JsonError : public Error {
 public:
  JsonError(const std::string& message, std::string member)
      : Error(ErrorCode::kData, message), member_(std::move(member)) {}
  const std::string& member() const { return member_; }

 private:
  std::string member_;
};

// Parses one strict JSON document (RFC 8259, valid UTF-8). Throws JsonError "<what>: line L, offset O: <why>" for
// malformed text, a limit exceeded, or a key that occurs twice in one object. `what` names the file or the field.
nlohmann::json ParseJson(std::string_view text, std::string_view what, JsonLimits limits = {});

// The same, keeping the order of keys (messages and tools, which a chat template may print).
nlohmann::ordered_json ParseOrderedJson(std::string_view text, std::string_view what, JsonLimits limits = {});

// The whole number that `value` is; kData "<what> is VALUE, expected a whole number from LEAST to MOST" for all else: a
// fraction and a number that int64 cannot hold are never narrowed.
int64_t WholeNumber(const nlohmann::json& value, std::string_view what, int64_t least, int64_t most);

// A value as messages show it: on one line, of `most` bytes at most.
template <class Json>
std::string ShownJson(const Json& value, size_t most = 60) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > most) text = text.substr(0, most - 3) + "...";
  return text;
}

// Reads a whole file of at most `max_bytes`; kData when it is missing, larger, or cannot be read.
std::string ReadTextFile(const std::string& path, size_t max_bytes = size_t{256} << 20);

}  // namespace cambium
