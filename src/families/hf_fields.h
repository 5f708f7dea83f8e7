#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace cambium {

// One JSON object whose fields are asked for by name and kind; null counts as absent. Errors are kData naming file,
// field and value.
class HfFields {
 public:
  static constexpr int64_t kMostWidth = int64_t{1} << 31;  // products of two stay within int64

  HfFields(const nlohmann::json& object, std::string path);

  const nlohmann::json* Find(std::string_view name) const;
  int64_t Int(std::string_view name, std::optional<int64_t> fallback = {}, int64_t least = 1,
              int64_t most = kMostWidth) const;
  double Number(std::string_view name, std::optional<double> fallback = {}) const;
  double Positive(std::string_view name, std::optional<double> fallback = {}) const;
  bool Bool(std::string_view name, bool fallback) const;
  std::string Str(std::string_view name, std::optional<std::string> fallback = {}) const;
  HfFields Object(std::string_view name) const;

  [[noreturn]] void Wrong(std::string_view name, const nlohmann::json& value, std::string_view wanted) const;
  const std::string& path() const { return path_; }
  const nlohmann::json& object() const { return object_; }

 private:
  const nlohmann::json* Require(std::string_view name, bool has_fallback) const;
  const nlohmann::json& object_;
  std::string path_;
};

}  // namespace cambium
