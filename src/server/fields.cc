#include "server/fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "cambium/error.h"
#include "io/json.h"

namespace cambium::server {
namespace {

constexpr JsonLimits kBodyLimits = {.max_depth = 100, .max_values = size_t{1} << 22};

std::string Range(std::string_view kind, double low, double high) {
  if (high >= 9e18) return fmt::format("{} from {:.10g}", kind, low);
  return fmt::format("{} from {:.10g} to {:.10g}", kind, low, high);
}

}  // namespace

Json ParseBody(std::string_view body) {
  Json value;
  try {
    value = ParseOrderedJson(body, "the body", kBodyLimits);
  } catch (const JsonError& error) {
    const std::string where = error.member().empty() ? "" : error.member() + ": ";
    throw ApiError{400, where + error.what(), error.member(), "invalid_json"};
  } catch (const Error& error) {
    throw ApiError{400, error.what(), "", "invalid_json"};
  }
  if (!value.is_object()) throw ApiError{400, "the body is not a JSON object", "", "invalid_json"};
  return value;
}

std::string Dump(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

void Refuse(std::string_view field, const Json& value, std::string_view expected) {
  std::string shown = ShownJson(value);
  if (value.is_array()) shown = value.empty() ? "an empty list" : "a list";
  if (value.is_object()) shown = value.empty() ? "an empty object" : "an object";
  Refuse(field, fmt::format("{} is {}, expected {}", field, shown, expected));
}

void Refuse(std::string_view field, std::string message) {
  throw ApiError{400, std::move(message), std::string(field), ""};
}

std::optional<int64_t> QueryNumber(std::string_view query, std::string_view name) {
  for (size_t at = 0; at < query.size();) {
    const size_t end = std::min(query.find('&', at), query.size());
    const std::string_view part = query.substr(at, end - at);
    at = end + 1;
    if (!part.starts_with(name) || !part.substr(name.size()).starts_with('=')) continue;
    const std::string_view digits = part.substr(name.size() + 1);
    int64_t value = 0;
    const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (read.ec == std::errc() && read.ptr == digits.data() + digits.size() && value >= 0) return value;
    Refuse(name, std::string(name) + " is no whole number");
  }
  return std::nullopt;
}

Fields::Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (object.is_object()) return;
  if (where_.ends_with('.')) where_.pop_back();
  Refuse(where_, object, "an object");
}

const Json* Fields::Find(const char* name) const {
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<double> Fields::Number(const char* name, double low, double high) const {
  const Json* const value = Find(name);
  if (value == nullptr) return std::nullopt;
  const bool good = value->is_number() && value->get<double>() >= low && value->get<double>() <= high;
  if (!good) Refuse(Name(name), *value, Range("a number", low, high));
  return value->get<double>();
}

std::optional<int64_t> Fields::Whole(const char* name, int64_t low, int64_t high) const {
  const Json* const value = Find(name);
  if (value == nullptr) return std::nullopt;
  const bool fits = value->is_number_integer() &&
                    (!value->is_number_unsigned() || value->get<uint64_t>() <= static_cast<uint64_t>(high)) &&
                    value->get<int64_t>() >= low && value->get<int64_t>() <= high;
  if (!fits) Refuse(Name(name), *value, Range("a whole number", static_cast<double>(low), static_cast<double>(high)));
  return value->get<int64_t>();
}

std::optional<bool> Fields::Bool(const char* name) const {
  const Json* const value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) Refuse(Name(name), *value, "true or false");
  return value->get<bool>();
}

std::optional<std::string> Fields::Text(const char* name) const {
  const Json* const value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) Refuse(Name(name), *value, "a string");
  return value->get<std::string>();
}

std::optional<std::vector<std::string>> Fields::Texts(const char* name) const {
  const Json* const value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return std::vector{value->get<std::string>()};
  const auto is_text = [](const Json& item) { return item.is_string(); };
  if (!value->is_array() || !std::all_of(value->begin(), value->end(), is_text)) {
    Refuse(Name(name), *value, "a string or a list of strings");
  }
  return value->get<std::vector<std::string>>();
}

const Json* Fields::Object(const char* name) const {
  const Json* const value = Find(name);
  if (value != nullptr && !value->is_object()) Refuse(Name(name), *value, "an object");
  return value;
}

const Json& Fields::Messages() const {
  const Json* const messages = Find("messages");
  if (messages == nullptr) Refuse("messages", "messages is missing");
  if (!messages->is_array() || messages->empty()) Refuse("messages", *messages, "a list of messages, not empty");
  return *messages;
}

const Json* Fields::List(const char* name) const {
  const Json* const value = Find(name);
  if (value != nullptr && !value->is_array()) Refuse(Name(name), *value, "a list");
  return value;
}

}  // namespace cambium::server
