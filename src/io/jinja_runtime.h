#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cambium/error.h"
#include "io/jinja_value.h"

namespace cambium::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;

  // The argument at `index` or called `name`; null if absent.
  const Value* Get(size_t index, std::string_view name) const {
    if (index < positional.size()) return &positional[index];
    for (const auto& [keyword, value] : keywords) {
      if (keyword == name) return &value;
    }
    return nullptr;
  }
  std::string Text(size_t index, std::string_view name, std::string_view fallback) const;
  MarkedText Marked(size_t index, std::string_view name) const;  // empty if absent
  int64_t Integer(size_t index, std::string_view name, int64_t fallback) const;
  bool Flag(size_t index, std::string_view name, bool fallback) const;
};

// What one rendering may still spend: a unit a node evaluated, an item visited, 64 bytes of text or a mark made.
class Budget {
 public:
  explicit Budget(int64_t fuel) : fuel_(fuel) {}
  void Spend(size_t units) {
    fuel_ -= static_cast<int64_t>(units);
    if (fuel_ < 0) Fail(ErrorCode::kData, "chat template: takes too many steps");
  }
  void SpendText(size_t bytes) { Spend(1 + bytes / 64); }
  void SpendText(const std::string& text) { SpendText(text.size()); }
  void SpendText(const MarkedText& text) { Spend(1 + text.size() / 64 + text.mark_count()); }

 private:
  int64_t fuel_;
};

template <class... Parts>
[[noreturn]] void TemplateError(const Parts&... parts) {
  Fail(ErrorCode::kData, "chat template: ", parts...);
}

Value ApplyFilter(Budget& budget, const std::string& name, const Value& input, const Arguments& arguments);
bool ApplyTest(Budget& budget, const std::string& name, const Value& input, const Arguments& arguments);

// Attributes are the listed methods, dict keys and namespace names; nothing that starts with two underscores.
Value GetAttribute(const Value& object, const std::string& name);
Value GetItem(const Value& object, const Value& key);
bool HasMethod(const Value& object, std::string_view name);
Value CallMethod(Budget& budget, const Value& object, const std::string& name, const Arguments& arguments);
Value CallFunction(Budget& budget, const std::string& name, const Arguments& arguments);  // range, namespace, ...

// The items that a for loop over the value sees.
std::vector<Value> Iterate(Budget& budget, const Value& value);
bool Contains(Budget& budget, const Value& container, const Value& item);
int64_t Length(const Value& value);
std::vector<std::string_view> CodePoints(std::string_view text);
Value Sliced(Budget& budget, const Value& object, const Value& start, const Value& stop, const Value& step);
std::string_view Strip(std::string_view text, bool left, bool right, const std::string* characters = nullptr);
MarkedText Replaced(Budget& budget, const MarkedText& text, const Arguments& arguments);  // str.replace
bool IsPythonSpace(uint32_t code_point);

}  // namespace cambium::jinja
