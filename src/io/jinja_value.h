#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "io/marked_text.h"

namespace cambium::jinja {

class Value;
struct Macro;      // a macro of the template; lives as long as the scope that defines it
struct LoopState;  // the `loop` of a running for

struct Undefined {
  std::string name;
};
struct None {};
using String = std::shared_ptr<const MarkedText>;
struct ListData {
  std::vector<Value> items;
  bool tuple = false;
  int depth = 1;
};
struct DictData {
  std::vector<std::pair<Value, Value>> items;  // in the order of insertion
  int depth = 1;
};
struct NamespaceData {
  std::vector<std::pair<std::string, Value>> items;
};
struct Function {  // a global function or a method, by name
  std::string name;
};

// A Python value as far as templates see one. Containers are immutable once made, a namespace is not; containers and
// namespaces hold data only (no namespace, macro or loop), so values form trees of bounded depth.
class Value {
 public:
  using List = std::shared_ptr<const ListData>;
  using Dict = std::shared_ptr<const DictData>;
  using Namespace = std::shared_ptr<NamespaceData>;
  using Storage = std::variant<Undefined, None, bool, int64_t, double, String, List, Dict, Namespace, const Macro*,
                               const LoopState*, Function>;

  Value() : data_(None{}) {}
  Value(bool value) : data_(value) {}  // NOLINT: values convert
  Value(int64_t value) : data_(value) {}
  Value(double value) : data_(value) {}
  Value(MarkedText value) : data_(std::make_shared<const MarkedText>(std::move(value))) {}
  Value(std::string value) : Value(MarkedText(std::move(value))) {}
  Value(std::string_view value) : Value(std::string(value)) {}
  Value(const char* value) : Value(std::string(value)) {}
  Value(Storage value) : data_(std::move(value)) {}
  static Value UndefinedNamed(std::string name) { return Storage(Undefined{std::move(name)}); }
  static Value MakeList(std::vector<Value> items, bool tuple = false);
  static Value MakeDict(std::vector<std::pair<Value, Value>> items);  // a later equal key replaces the value
  // Strings are marked as coming from `source` (TextMark), save identifiers that are a dict's keys, roles or types:
  // templates build their own tokens of those, like '<|' + message.role + '|>'.
  static Value FromJson(const nlohmann::ordered_json& json, int32_t source);
  // The same for message number `index`: what it says is marked with it, what is said about it (its role, ...) is data.
  static Value FromMessage(const nlohmann::ordered_json& message, int32_t index);

  template <class T>
  bool Is() const {
    return std::holds_alternative<T>(data_);
  }
  template <class T>
  const T& As() const {
    return std::get<T>(data_);
  }
  bool IsUndefined() const { return Is<Undefined>(); }
  bool IsNone() const { return Is<None>(); }
  bool IsString() const { return Is<String>(); }
  bool IsList() const { return Is<List>(); }
  bool IsDict() const { return Is<Dict>(); }
  bool IsInteger() const { return Is<int64_t>() || Is<bool>(); }
  bool IsNumber() const { return IsInteger() || Is<double>(); }
  const std::string& Text() const { return As<String>()->text; }
  const MarkedText& Marked() const { return *As<String>(); }
  const std::vector<Value>& Items() const { return As<List>()->items; }
  const std::vector<std::pair<Value, Value>>& Members() const { return As<Dict>()->items; }
  int64_t Integer() const { return Is<bool>() ? As<bool>() : As<int64_t>(); }
  double Number() const { return Is<double>() ? As<double>() : static_cast<double>(Integer()); }

  bool Truthy() const;
  int Depth() const;                          // of nested containers
  const Value* Find(const Value& key) const;  // in a dict; null if absent
  std::string TypeName() const;               // Python's
  MarkedText Str() const;                     // str(value)
  MarkedText Repr() const;                    // repr(value)

 private:
  Storage data_;
};

bool Equal(const Value& a, const Value& b);
int Compare(const Value& a, const Value& b);  // -1, 0, 1; kData for values that Python does not order

// The arguments of json.dumps; indent < 0: on one line.
struct JsonStyle {
  int indent = -1;
  bool sort_keys = false, ensure_ascii = false;
  std::string item_separator = ", ", key_separator = ": ";
};
MarkedText ToJson(const Value& value, const JsonStyle& style);

std::string PythonFloat(double value);  // repr of a float

}  // namespace cambium::jinja
