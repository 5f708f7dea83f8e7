#include "families/hf_fields.h"

#include <cmath>

#include "cambium/error.h"
#include "io/json.h"

namespace cambium {

using nlohmann::json;

HfFields::HfFields(const json& object, std::string path) : object_(object), path_(std::move(path)) {
  if (!object_.is_object()) Fail(ErrorCode::kData, path_, ": is not an object");
}

const json* HfFields::Find(std::string_view name) const {
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

int64_t HfFields::Int(std::string_view name, std::optional<int64_t> fallback, int64_t least, int64_t most) const {
  const json* value = Require(name, fallback.has_value());
  if (value == nullptr) return *fallback;
  // A number too large for int64 is a float or unsigned in JSON terms and must not wrap.
  const bool fits = value->is_number_unsigned() ? value->get<uint64_t>() <= INT64_MAX : value->is_number_integer();
  if (!fits || value->get<int64_t>() < least || value->get<int64_t>() > most) {
    Wrong(name, *value, "an integer from " + std::to_string(least) + " to " + std::to_string(most));
  }
  return value->get<int64_t>();
}

double HfFields::Number(std::string_view name, std::optional<double> fallback) const {
  const json* value = Require(name, fallback.has_value());
  if (value == nullptr) return *fallback;
  if (!value->is_number()) Wrong(name, *value, "a number");
  return value->get<double>();
}

double HfFields::Positive(std::string_view name, std::optional<double> fallback) const {
  const double value = Number(name, fallback);
  if (!(value > 0) || !std::isfinite(value)) {
    Fail(ErrorCode::kData, path_, ": ", name, ": ", value, " is not positive");
  }
  return value;
}

bool HfFields::Bool(std::string_view name, bool fallback) const {
  const json* value = Find(name);
  if (value != nullptr && !value->is_boolean()) Wrong(name, *value, "true or false");
  return value != nullptr ? value->get<bool>() : fallback;
}

std::string HfFields::Str(std::string_view name, std::optional<std::string> fallback) const {
  const json* value = Require(name, fallback.has_value());
  if (value == nullptr) return *std::move(fallback);
  if (!value->is_string()) Wrong(name, *value, "a string");
  return value->get<std::string>();
}

HfFields HfFields::Object(std::string_view name) const {
  return HfFields(*Require(name, false), path_ + ": " + std::string(name));
}

void HfFields::Wrong(std::string_view name, const json& value, std::string_view wanted) const {
  Fail(ErrorCode::kData, path_, ": ", name, ": ", ShownJson(value), " is not ", wanted);
}

const json* HfFields::Require(std::string_view name, bool has_fallback) const {
  const json* value = Find(name);
  if (value == nullptr && !has_fallback) Fail(ErrorCode::kData, path_, ": ", name, " is missing");
  return value;
}

}  // namespace cambium
