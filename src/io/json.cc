#include "io/json.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <unordered_set>
#include <vector>

#include "cambium/error.h"

namespace cambium {
namespace {

// A character iterator that leaves its position where the SAX handler can see it.
class Cursor {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  Cursor(const char* at, const char** seen) : at_(at), seen_(seen) {}
  reference operator*() const { return *at_; }
  Cursor& operator++() {
    *seen_ = ++at_;
    return *this;
  }
  Cursor operator++(int) {
    Cursor old = *this;
    ++*this;
    return old;
  }
  bool operator==(const Cursor& other) const { return at_ == other.at_; }
  bool operator!=(const Cursor& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** seen_;
};

// Printable and short: error text may quote the input.
std::string Excerpt(std::string_view text) {
  std::string out;
  for (char c : text.substr(0, 160)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
  if (text.size() > 160) out += "...";
  return out;
}

// Builds the document while counting, so that nothing outgrows its limit before it is refused.
template <class Json>
class Builder {
 public:
  Builder(std::string_view text, std::string_view what, const JsonLimits& limits)
      : text_(text), what_(what), limits_(limits), seen_(text.data()) {}

  Json Parse() {
    Json::sax_parse(Cursor(text_.data(), &seen_), Cursor(text_.data() + text_.size(), &seen_), this);
    return std::move(root_);
  }

  bool null() { return Add(Json(nullptr)); }
  bool boolean(bool value) { return Add(Json(value)); }
  bool number_integer(int64_t value) { return Add(Json(value)); }
  bool number_unsigned(uint64_t value) { return Add(Json(value)); }
  bool number_float(double value, const std::string&) { return Add(Json(value)); }
  bool string(std::string& value) { return Add(Json(std::move(value))); }
  bool binary(typename Json::binary_t&) { return false; }
  bool start_object(size_t) { return Open(Json::object()); }
  bool start_array(size_t) { return Open(Json::array()); }
  bool end_object() { return Close(); }
  bool end_array() { return Close(); }

  bool key(std::string& name) {
    if (stack_.size() == 1) member_ = name;
    if constexpr (kOrdered) {
      if (!keys_.back().insert(name).second) Refuse("duplicate key \"" + Excerpt(name) + "\"");
    } else if (stack_.back()->contains(name)) {
      Refuse("duplicate key \"" + Excerpt(name) + "\"");
    }
    key_ = std::move(name);
    return true;
  }

  [[noreturn]] bool parse_error(size_t, const std::string&, const nlohmann::json::exception& error) {
    std::string_view why = error.what();
    for (std::string_view mark : {"] ", ": "}) {  // drop the library's own prefix and position
      const size_t at = why.find(mark);
      if (at != why.npos) why.remove_prefix(at + mark.size());
    }
    Refuse(Excerpt(why));
  }

 private:
  static constexpr bool kOrdered = std::is_same_v<Json, nlohmann::ordered_json>;

  [[noreturn]] void Refuse(const std::string& why) {
    const size_t offset = std::min<size_t>(seen_ - text_.data(), text_.size());
    const auto line = 1 + std::count(text_.begin(), text_.begin() + offset, '\n');
    std::ostringstream message;
    message << what_ << ": line " << line << ", offset " << offset << ": " << why;
    throw JsonError(message.str(), Excerpt(member_));
  }

  Json* Place(Json&& value) {
    if (++values_ > limits_.max_values) Refuse("more than " + std::to_string(limits_.max_values) + " values");
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      auto& items = parent.template get_ref<typename Json::array_t&>();
      return &items.emplace_back(std::move(value));
    }
    auto& members = parent.template get_ref<typename Json::object_t&>();
    if constexpr (kOrdered) {  // its emplace searches linearly; key() has already looked
      static_cast<typename Json::object_t::Container&>(members).emplace_back(std::move(key_), std::move(value));
      return &members.back().second;
    } else {
      return &members.emplace(std::move(key_), std::move(value)).first->second;
    }
  }

  bool Add(Json&& value) {
    Place(std::move(value));
    if (stack_.size() == 1) member_.clear();
    return true;
  }

  bool Open(Json&& value) {
    if (static_cast<int>(stack_.size()) >= limits_.max_depth) {
      Refuse("nested deeper than " + std::to_string(limits_.max_depth));
    }
    stack_.push_back(Place(std::move(value)));
    if constexpr (kOrdered) keys_.emplace_back();
    return true;
  }

  bool Close() {
    stack_.pop_back();
    if constexpr (kOrdered) keys_.pop_back();
    if (stack_.size() == 1) member_.clear();
    return true;
  }

  std::string_view text_;
  std::string_view what_;
  const JsonLimits& limits_;
  const char* seen_;
  Json root_;
  std::vector<Json*> stack_;
  std::vector<std::unordered_set<std::string>> keys_;  // of each open object, when order is kept
  std::string key_;
  std::string member_;  // of the outermost object, whose value is under way
  size_t values_ = 0;
};

template <class Json>
Json Parse(std::string_view text, std::string_view what, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    Fail(ErrorCode::kData, what, ": ", text.size(), " bytes of JSON, the limit is ", limits.max_bytes);
  }
  if (text.empty()) Fail(ErrorCode::kData, what, ": line 1, offset 0: empty, JSON expected");
  if (const size_t end = text.find('\0'); end != text.npos) {  // the library would take it for the end of the text
    Fail(ErrorCode::kData, what, ": line ", 1 + std::count(text.begin(), text.begin() + end, '\n'), ", offset ", end,
         ": a byte 0, which no JSON holds");
  }
  return Builder<Json>(text, what, limits).Parse();
}

}  // namespace

nlohmann::json ParseJson(std::string_view text, std::string_view what, JsonLimits limits) {
  return Parse<nlohmann::json>(text, what, limits);
}

nlohmann::ordered_json ParseOrderedJson(std::string_view text, std::string_view what, JsonLimits limits) {
  return Parse<nlohmann::ordered_json>(text, what, limits);
}

int64_t WholeNumber(const nlohmann::json& value, std::string_view what, int64_t least, int64_t most) {
  const bool fits = value.is_number_unsigned() ? value.get<uint64_t>() <= INT64_MAX : value.is_number_integer();
  if (!fits || value.get<int64_t>() < least || value.get<int64_t>() > most) {
    Fail(ErrorCode::kData, what, " is ", value.dump(), ", expected a whole number from ", least, " to ", most);
  }
  return value.get<int64_t>();
}

std::string ReadTextFile(const std::string& path, size_t max_bytes) {
  std::error_code unknown;
  if (std::filesystem::is_directory(path, unknown)) Fail(ErrorCode::kData, path, ": is a directory, expected a file");
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) Fail(ErrorCode::kData, path, ": cannot be opened");
  const std::streamoff size = file.tellg();
  if (size < 0) Fail(ErrorCode::kData, path, ": cannot be read");
  if (static_cast<size_t>(size) > max_bytes) {
    Fail(ErrorCode::kData, path, ": ", size, " bytes, the limit is ", max_bytes);
  }
  std::string text(static_cast<size_t>(size), '\0');
  file.seekg(0);
  if (!file.read(text.data(), size)) Fail(ErrorCode::kData, path, ": cannot be read");
  return text;
}

}  // namespace cambium
