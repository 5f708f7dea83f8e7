#include "io/jinja_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "cambium/error.h"
#include "io/unicode.h"

namespace cambium::jinja {
namespace {

constexpr int kMaxDepth = 160;  // above what ParseOrderedJson lets in

int DepthAbove(const Value& child, int depth) {
  const int above = std::max(depth, child.Depth() + 1);
  if (above > kMaxDepth) Fail(ErrorCode::kData, "chat template: values nested deeper than ", kMaxDepth);
  return above;
}

// The inside of repr(text) between quotes.
std::string EscapePython(std::string_view text, char quote) {
  std::string out;
  const char* end = text.data() + text.size();
  for (const char* at = text.data(); at < end;) {
    const CodePoint c = DecodeUtf8(at, end);
    char escape[12];
    if (*at == quote || *at == '\\') {
      out += '\\';
      out += *at;
    } else if (*at == '\n') {
      out += "\\n";
    } else if (*at == '\r') {
      out += "\\r";
    } else if (*at == '\t') {
      out += "\\t";
    } else if (c.value < 0x20 || (c.value >= 0x7F && c.value <= 0xA0) || c.value == 0xAD) {
      std::snprintf(escape, sizeof escape, "\\x%02x", c.value);
      out += escape;
    } else {
      out.append(at, c.length);
    }
    at += c.length;
  }
  return out;
}

MarkedText QuotePython(const MarkedText& text) {
  const bool single = text.text.find('\'') != std::string::npos, twice = text.text.find('"') != std::string::npos;
  const std::string quote(1, single && !twice ? '"' : '\'');
  MarkedText out(quote);
  out.Append(text.Mapped([&](std::string_view part) { return EscapePython(part, quote[0]); }));
  out.Append(quote);
  return out;
}

void AppendUnit(std::string& out, uint32_t unit) {
  char escape[12];
  std::snprintf(escape, sizeof escape, "\\u%04x", unit);
  out += escape;
}

// The inside of a JSON string.
std::string EscapeJson(std::string_view text, bool ensure_ascii) {
  std::string out;
  const char* end = text.data() + text.size();
  for (const char* at = text.data(); at < end; ++at) {
    const char c = *at;
    if (ensure_ascii && (c & 0x80)) {
      const CodePoint point = DecodeUtf8(at, end);
      if (point.value >= 0x10000) {
        AppendUnit(out, 0xD800 + ((point.value - 0x10000) >> 10));
        AppendUnit(out, 0xDC00 + (point.value & 0x3FF));
      } else {
        AppendUnit(out, point.value);
      }
      at += point.length - 1;
      continue;
    }
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          AppendUnit(out, static_cast<unsigned char>(c));
        } else {
          out += c;
        }
    }
  }
  return out;
}

void AppendJsonString(MarkedText& out, const MarkedText& text, bool ensure_ascii) {
  out.Append("\"");
  out.Append(text.Mapped([&](std::string_view part) { return EscapeJson(part, ensure_ascii); }));
  out.Append("\"");
}

void AppendJson(MarkedText& out, const Value& value, const JsonStyle& style, int level) {
  const auto newline = [&](int depth) {
    if (style.indent < 0) return;
    out.Append("\n" + std::string(static_cast<size_t>(depth) * style.indent, ' '));
  };
  if (value.IsNone()) {
    out.Append("null");
  } else if (value.Is<bool>()) {
    out.Append(value.As<bool>() ? "true" : "false");
  } else if (value.Is<double>()) {
    const double number = value.As<double>();
    out.Append(std::isnan(number)   ? "NaN"
               : std::isinf(number) ? (number > 0 ? "Infinity" : "-Infinity")
                                    : value.Str().text);
  } else if (value.IsNumber()) {
    out.Append(value.Str().text);
  } else if (value.IsString()) {
    AppendJsonString(out, value.Marked(), style.ensure_ascii);
  } else if (value.IsList()) {
    const auto& items = value.Items();
    out.Append("[");
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out.Append(style.item_separator);
      newline(level + 1);
      AppendJson(out, items[i], style, level + 1);
    }
    if (!items.empty()) newline(level);
    out.Append("]");
  } else if (value.IsDict()) {
    auto members = value.Members();
    if (style.sort_keys) {
      std::stable_sort(members.begin(), members.end(),
                       [](const auto& a, const auto& b) { return Compare(a.first, b.first) < 0; });
    }
    out.Append("{");
    for (size_t i = 0; i < members.size(); ++i) {
      if (i > 0) out.Append(style.item_separator);
      newline(level + 1);
      if (members[i].first.IsString()) {
        AppendJsonString(out, members[i].first.Marked(), style.ensure_ascii);
      } else {
        out.Append("\"");
        AppendJson(out, members[i].first, {}, 0);
        out.Append("\"");
      }
      out.Append(style.key_separator);
      AppendJson(out, members[i].second, style, level + 1);
    }
    if (!members.empty()) newline(level);
    out.Append("}");
  } else {
    Fail(ErrorCode::kData, "chat template: tojson: a value of type ", value.TypeName(), " is not JSON");
  }
}

bool IsIdentifier(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
           c == '.';
  });
}

template <class SourceOf>  // of the value under a key
Value DictFromJson(const nlohmann::ordered_json& json, const SourceOf& source_of) {
  auto dict = std::make_shared<DictData>();
  for (const auto& [key, item] : json.items()) {
    const int32_t source = source_of(key);
    const bool names = (key == "role" || key == "type") && item.is_string();
    const bool own = names && IsIdentifier(item.template get_ref<const std::string&>());
    dict->items.emplace_back(IsIdentifier(key) ? Value(key) : Value(MarkedText(key, source)),
                             own ? Value(item.template get_ref<const std::string&>()) : Value::FromJson(item, source));
    dict->depth = DepthAbove(dict->items.back().second, dict->depth);
  }
  return Value::Storage(Value::Dict(std::move(dict)));
}

}  // namespace

Value Value::MakeList(std::vector<Value> items, bool tuple) {
  auto list = std::make_shared<ListData>();
  for (const Value& item : items) list->depth = DepthAbove(item, list->depth);
  list->items = std::move(items);
  list->tuple = tuple;
  return Storage(List(std::move(list)));
}

Value Value::MakeDict(std::vector<std::pair<Value, Value>> items) {
  auto dict = std::make_shared<DictData>();
  for (auto& [key, value] : items) {
    if (!key.IsString() && !key.IsNumber() && !key.IsNone()) {
      Fail(ErrorCode::kData, "chat template: a dict key of type ", key.TypeName());
    }
    dict->depth = DepthAbove(value, dict->depth);
  }
  // Quadratic, but a template spends fuel on every entry; JSON, which could be large, has no equal keys.
  for (auto& item : items) {
    const auto twin = std::find_if(dict->items.begin(), dict->items.end(),
                                   [&](const auto& other) { return Equal(other.first, item.first); });
    if (twin != dict->items.end()) {
      twin->second = std::move(item.second);
    } else {
      dict->items.push_back(std::move(item));
    }
  }
  return Storage(Dict(std::move(dict)));
}

Value Value::FromMessage(const nlohmann::ordered_json& message, int32_t index) {
  if (!message.is_object()) return FromJson(message, index);
  return DictFromJson(message, [&](std::string_view key) {
    const bool about = key == "role" || key == "name" || key == "tool_call_id" || key == "type" || key == "id";
    return about ? TextMark::kData : index;
  });
}

Value Value::FromJson(const nlohmann::ordered_json& json, int32_t source) {
  using Type = nlohmann::json::value_t;
  switch (json.type()) {
    case Type::boolean:
      return json.get<bool>();
    case Type::number_integer:
      return json.get<int64_t>();
    case Type::number_unsigned: {
      const auto number = json.get<uint64_t>();
      if (number > static_cast<uint64_t>(INT64_MAX)) return static_cast<double>(number);
      return static_cast<int64_t>(number);
    }
    case Type::number_float:
      return json.get<double>();
    case Type::string:
      return MarkedText(json.get_ref<const std::string&>(), source);
    case Type::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(FromJson(item, source));
      return MakeList(std::move(items));
    }
    case Type::object:
      return DictFromJson(json, [&](std::string_view) { return source; });
    default:
      return Value();
  }
}

bool Value::Truthy() const {
  if (Is<bool>()) return As<bool>();
  if (Is<int64_t>()) return As<int64_t>() != 0;
  if (Is<double>()) return As<double>() != 0;
  if (IsString()) return !Text().empty();
  if (IsList()) return !Items().empty();
  if (IsDict()) return !Members().empty();
  return !IsUndefined() && !IsNone();
}

int Value::Depth() const {
  if (IsList()) return As<List>()->depth;
  if (IsDict()) return As<Dict>()->depth;
  if (Is<Namespace>() || Is<const Macro*>() || Is<const LoopState*>()) return kMaxDepth;  // not inside a container
  return 0;
}

const Value* Value::Find(const Value& key) const {
  for (const auto& [name, value] : Members()) {
    if (Equal(name, key)) return &value;
  }
  return nullptr;
}

std::string Value::TypeName() const {
  constexpr const char* kNames[] = {"Undefined", "NoneType", "bool",      "int",   "float",       "str",
                                    "list",      "dict",     "Namespace", "Macro", "LoopContext", "function"};
  return IsList() && As<List>()->tuple ? "tuple" : kNames[data_.index()];
}

MarkedText Value::Str() const {
  if (IsUndefined()) return {};
  if (IsString()) return Marked();
  return Repr();
}

MarkedText Value::Repr() const {
  if (IsUndefined()) return MarkedText("Undefined");
  if (IsNone()) return MarkedText("None");
  if (Is<bool>()) return MarkedText(As<bool>() ? "True" : "False");
  if (Is<int64_t>()) return MarkedText(std::to_string(As<int64_t>()));
  if (Is<double>()) return MarkedText(PythonFloat(As<double>()));
  if (IsString()) return QuotePython(Marked());
  MarkedText out;
  if (IsList()) {
    const bool tuple = As<List>()->tuple;
    out.Append(tuple ? "(" : "[");
    for (size_t i = 0; i < Items().size(); ++i) {
      if (i > 0) out.Append(", ");
      out.Append(Items()[i].Repr());
    }
    if (tuple && Items().size() == 1) out.Append(",");
    out.Append(tuple ? ")" : "]");
    return out;
  }
  if (IsDict()) {
    out.Append("{");
    for (size_t i = 0; i < Members().size(); ++i) {
      if (i > 0) out.Append(", ");
      out.Append(Members()[i].first.Repr());
      out.Append(": ");
      out.Append(Members()[i].second.Repr());
    }
    out.Append("}");
    return out;
  }
  Fail(ErrorCode::kData, "chat template: a ", TypeName(), " has no text");
}

bool Equal(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) {
    return a.IsInteger() && b.IsInteger() ? a.Integer() == b.Integer() : a.Number() == b.Number();
  }
  if (a.IsString() && b.IsString()) return a.Text() == b.Text();
  if (a.IsList() && b.IsList()) {
    return a.As<Value::List>()->tuple == b.As<Value::List>()->tuple &&
           std::equal(a.Items().begin(), a.Items().end(), b.Items().begin(), b.Items().end(), Equal);
  }
  if (a.IsDict() && b.IsDict()) {
    if (a.Members().size() != b.Members().size()) return false;
    return std::all_of(a.Members().begin(), a.Members().end(), [&](const auto& member) {
      const Value* other = b.Find(member.first);
      return other != nullptr && Equal(member.second, *other);
    });
  }
  if (a.Is<Value::Namespace>() && b.Is<Value::Namespace>()) {
    return a.As<Value::Namespace>() == b.As<Value::Namespace>();
  }
  return (a.IsNone() && b.IsNone()) || (a.IsUndefined() && b.IsUndefined());
}

int Compare(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) {
    if (a.IsInteger() && b.IsInteger()) return a.Integer() < b.Integer() ? -1 : a.Integer() > b.Integer();
    return a.Number() < b.Number() ? -1 : a.Number() > b.Number();
  }
  if (a.IsString() && b.IsString()) {  // the order of UTF-8 is that of code points
    const int order = a.Text().compare(b.Text());
    return order < 0 ? -1 : order > 0;
  }
  if (a.IsList() && b.IsList()) {
    for (size_t i = 0; i < std::min(a.Items().size(), b.Items().size()); ++i) {
      if (!Equal(a.Items()[i], b.Items()[i])) return Compare(a.Items()[i], b.Items()[i]);
    }
    return a.Items().size() < b.Items().size() ? -1 : a.Items().size() > b.Items().size();
  }
  Fail(ErrorCode::kData, "chat template: ", a.TypeName(), " and ", b.TypeName(), " have no order");
}

MarkedText ToJson(const Value& value, const JsonStyle& style) {
  MarkedText out;
  AppendJson(out, value, style, 0);
  return out;
}

std::string PythonFloat(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char digits[40];
  const double size = std::fabs(value);
  const bool fixed = value == 0 || (size >= 1e-4 && size < 1e16);
  const auto result = std::to_chars(digits, digits + sizeof digits, value,
                                    fixed ? std::chars_format::fixed : std::chars_format::scientific);
  std::string text(digits, result.ptr);
  if (fixed && text.find('.') == text.npos) text += ".0";
  return text;
}

}  // namespace cambium::jinja
