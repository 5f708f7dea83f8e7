// Training's options out of JSON and TOML.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "engine/train_fields.h"
#include "io/json.h"

namespace cambium {
namespace {

using Json = nlohmann::ordered_json;

template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};

template <class T>
constexpr const char* kExpected = "a number";
template <>
constexpr const char* kExpected<bool> = "true or false";
template <>
constexpr const char* kExpected<std::string> = "a text";
template <>
constexpr const char* kExpected<std::vector<std::string>> = "a list of texts";

// Whether the whole text is a number that T holds.
template <class T>
bool ParseNumber(std::string_view text, T& value) {
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stop == end;
}

// Values come as texts, as a command line has them: both formats then read a number alike.
template <class T>
bool SetField(T& field, const std::vector<std::string>& values) {
  if constexpr (std::is_same_v<T, std::vector<std::string>>) {
    field = values;
    return true;
  } else if constexpr (IsOptional<T>::value) {
    if (values.empty()) {
      field.reset();
      return true;
    }
    return SetField(field.emplace(), values);
  } else {
    if (values.size() != 1) return false;
    if constexpr (std::is_same_v<T, std::string>) {
      field = values[0];
    } else if constexpr (std::is_same_v<T, bool>) {
      if (values[0] != "true" && values[0] != "false") return false;
      field = values[0] == "true";
    } else {
      return ParseNumber(values[0], field);
    }
    return true;
  }
}

template <class T>
bool HasType(const Json& value) {
  if constexpr (IsOptional<T>::value) {
    return value.is_null() || value.is_number();
  } else if constexpr (std::is_same_v<T, bool>) {
    return value.is_boolean();
  } else if constexpr (std::is_arithmetic_v<T>) {
    return value.is_number();
  } else if constexpr (std::is_same_v<T, std::string>) {
    return value.is_string();
  } else {
    if (value.is_object()) return std::ranges::all_of(value, [](const Json& v) { return v.is_number(); });
    return value.is_array() && std::ranges::all_of(value, [](const Json& v) { return v.is_string(); });
  }
}

std::vector<std::string> TextsOf(const Json& value) {
  std::vector<std::string> texts;
  if (value.is_object()) {
    for (const auto& [key, number] : value.items()) texts.push_back(key + "=" + number.dump());
  } else if (value.is_array()) {
    for (const Json& text : value) texts.push_back(text.get<std::string>());
  } else if (!value.is_null()) {
    texts.push_back(value.is_string() ? value.get<std::string>() : value.dump());
  }
  return texts;
}

// visit(name, member, choices) for every option.
template <class Config, class Visit>
void VisitAll(Config& config, const Visit& visit) {
  const auto each = [&](const char* flags, auto& member, const std::string& /*help*/, const Choices& choices = {}) {
    visit(FieldName(flags), member, choices);
  };
  VisitDataFields(config, each);
  VisitTrainFields(config, each);
}

// Sets the option of this name; false where there is none. good(member) says whether the value has the member's type.
template <class Good>
bool SetByName(TrainConfig& config, const std::string& name, const std::vector<std::string>& values,
               const std::string& shown, const std::string& where, const Good& good) {
  bool found = false;
  VisitAll(config, [&](const std::string& field, auto& member, const Choices&) {
    if (field != name) return;
    found = true;
    using Member = std::remove_reference_t<decltype(member)>;
    if (good(member) && SetField(member, values)) return;
    const char* expected = kExpected<Member>;
    if constexpr (std::is_integral_v<Member> && !std::is_same_v<Member, bool>) expected = "a whole number";
    Fail(ErrorCode::kUsage, where, name, " is ", shown, ", expected ", expected);
  });
  return found;
}

}  // namespace

TrainConfig TrainConfig::FromJson(std::string_view json) {
  TrainConfig config;
  const Json object = [&] {
    try {
      return ParseOrderedJson(json, "training options");
    } catch (const Error& error) {
      throw Error(ErrorCode::kUsage, error.what());
    }
  }();
  if (!object.is_object()) Fail(ErrorCode::kUsage, "training options: ", ShownJson(object), " is no JSON object");
  for (const auto& [key, value] : object.items()) {
    std::string name = key;
    std::ranges::replace(name, '_', '-');
    const Json& given = value;
    const auto good = [&](const auto& member) {
      const bool pattern = name.ends_with("-pattern");
      return HasType<std::remove_cvref_t<decltype(member)>>(given) && (!given.is_object() || pattern);
    };
    const std::string shown = ShownJson(value);
    // Texts of a value of the wrong type are not asked for.
    const bool nested = value.is_array() && !std::ranges::all_of(value, [](const Json& v) { return v.is_string(); });
    if (SetByName(config, name, nested ? std::vector<std::string>() : TextsOf(value), shown, "", good)) continue;
    Fail(ErrorCode::kUsage, "unknown option \"", key, "\"");
  }
  return config;
}

std::string TrainConfig::ToJson() const {
  Json object;
  VisitAll(*this, [&](const std::string& name, const auto& member, const Choices&) {
    std::string key = name;
    std::ranges::replace(key, '-', '_');
    if constexpr (IsOptional<std::remove_cvref_t<decltype(member)>>::value) {
      object[key] = member ? Json(*member) : Json();
    } else {
      object[key] = member;
    }
  });
  return object.dump();
}

TrainConfig TrainConfig::FromToml(const std::string& path) {
  static constexpr std::string_view kOfTheProgram[] = {"MODEL",   "model", "config", "print-config",
                                                       "threads", "json",  "quiet"};
  TrainConfig config;
  std::vector<CLI::ConfigItem> items;
  try {
    items = CLI::ConfigTOML().from_file(path);
  } catch (const CLI::Error& error) {
    Fail(ErrorCode::kUsage, path, ": ", error.what());
  }
  for (const CLI::ConfigItem& item : items) {
    if (item.name == "++" || item.name == "--") continue;  // CLI11's marks of sections
    if (std::ranges::find(kOfTheProgram, item.name) != std::end(kOfTheProgram)) continue;
    std::vector<std::string> values = item.inputs;
    const auto good = [&](const auto& member) {
      using Member = std::remove_cvref_t<decltype(member)>;
      // As CLI11 writes an empty list and nothing.
      const bool list = std::is_same_v<Member, std::vector<std::string>>;
      const bool empty =
          values.size() == 1 && ((list && values[0] == "[]") || (IsOptional<Member>::value && values[0].empty()));
      if (empty) values.clear();
      return true;
    };
    const std::string shown = values.empty() ? "nothing" : "\"" + values[0] + "\"";
    if (SetByName(config, item.name, values, shown, path + ": ", good)) continue;
    Fail(ErrorCode::kUsage, path, ": unknown key \"", item.name, "\"");
  }
  return config;
}

}  // namespace cambium
