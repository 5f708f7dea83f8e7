#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_error.h"

namespace cambium::server {

using Json = nlohmann::ordered_json;

// A body as one JSON object, or ApiError.
Json ParseBody(std::string_view body);
// On one line; bytes that are not UTF-8 become U+FFFD.
std::string Dump(const Json& value);

// Refuses a field by name: "temperature is \"hot\", expected a number from 0 to 100".
[[noreturn]] void Refuse(std::string_view field, const Json& value, std::string_view expected);
[[noreturn]] void Refuse(std::string_view field, std::string message);

// The number N of "name=N" in a request's query; refuses one that is none.
std::optional<int64_t> QueryNumber(std::string_view query, std::string_view name);

// The fields of an object of a request. A field is absent where it is null; what nobody asks for is ignored.
class Fields {
 public:
  // `where`: what the names begin with, such as "messages[2]."
  explicit Fields(const Json& object, std::string where = "");

  const Json& object() const { return object_; }
  bool Has(const char* name) const { return Find(name) != nullptr; }
  const Json* Find(const char* name) const;  // null where absent
  std::string Name(std::string_view name) const { return where_ + std::string(name); }

  // Each is empty where the field is absent, and refuses one of another type or range.
  std::optional<double> Number(const char* name, double low, double high) const;
  std::optional<int64_t> Whole(const char* name, int64_t low, int64_t high = std::numeric_limits<int64_t>::max()) const;
  std::optional<bool> Bool(const char* name) const;
  std::optional<std::string> Text(const char* name) const;
  std::optional<std::vector<std::string>> Texts(const char* name) const;  // a list, or one text
  const Json* Object(const char* name) const;
  const Json* List(const char* name) const;
  const Json& Messages() const;  // the list "messages", which is not empty

 private:
  const Json& object_;
  std::string where_;
};

}  // namespace cambium::server
