// Jinja's filters and tests.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "io/jinja_runtime.h"
#include "io/unicode.h"

namespace cambium::jinja {
namespace {

using Items = std::vector<Value>;

Arguments Without(const Arguments& arguments, size_t positional) {
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin(), rest.positional.begin() + static_cast<std::ptrdiff_t>(std::min(
                                                                               positional, rest.positional.size())));
  return rest;
}

// "a.b.0" looked up step by step.
Value Dotted(Budget& budget, Value value, const Value& path) {
  budget.Spend(1);
  if (path.IsInteger()) return GetItem(value, path);
  if (!path.IsString()) TemplateError("an attribute is a ", path.TypeName());
  std::string_view rest = path.Text();
  while (true) {
    const size_t dot = rest.find('.');
    const std::string_view part = rest.substr(0, dot);
    int64_t index = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index = error == std::errc() && end == part.data() + part.size();
    value = is_index ? GetItem(value, index) : GetItem(value, Value(part));
    if (dot == rest.npos) return value;
    rest.remove_prefix(dot + 1);
  }
}

Value Mapped(Budget& budget, const Value& input, const Arguments& arguments) {
  Items out;
  if (!input.Truthy()) return Value::MakeList({});  // none too
  const Value* attribute = arguments.positional.empty() ? arguments.Get(0, "attribute") : nullptr;
  const Value* fallback = arguments.Get(9, "default");
  for (const Value& item : Iterate(budget, input)) {
    if (attribute != nullptr) {
      Value value = Dotted(budget, item, *attribute);
      out.push_back(value.IsUndefined() && fallback != nullptr ? *fallback : value);
    } else {
      out.push_back(ApplyFilter(budget, arguments.Text(0, "filter", ""), item, Without(arguments, 1)));
    }
  }
  return Value::MakeList(std::move(out));
}

// select, reject, selectattr, rejectattr.
Value Selected(Budget& budget, const Value& input, const Arguments& arguments, bool keep, bool by_attribute) {
  Items out;
  if (!input.Truthy()) return Value::MakeList({});  // none too
  const size_t test_index = by_attribute ? 1 : 0;
  if (by_attribute && arguments.positional.empty()) TemplateError("selectattr: an argument is missing");
  const std::string test = arguments.Text(test_index, "test", "");
  const Arguments rest = Without(arguments, test_index + 1);
  for (const Value& item : Iterate(budget, input)) {
    budget.Spend(1);
    const Value value = by_attribute ? Dotted(budget, item, arguments.positional[0]) : item;
    const bool passes = test.empty() ? value.Truthy() : ApplyTest(budget, test, value, rest);
    if (passes == keep) out.push_back(item);
  }
  return Value::MakeList(std::move(out));
}

Value FoldCase(const Value& value, bool case_sensitive) {
  return value.IsString() && !case_sensitive ? Value(ToLower(value.Text())) : value;
}

void SortBy(Budget& budget, std::vector<std::pair<Value, Value>>& keyed, bool reverse) {
  size_t units = keyed.size();
  for (size_t n = keyed.size(); n > 1; n /= 2) units += keyed.size();
  budget.Spend(units);
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? Compare(b.first, a.first) < 0 : Compare(a.first, b.first) < 0;
  });
}

Value Sorted(Budget& budget, const Value& input, const Arguments& arguments) {
  const Value* attribute = arguments.Get(2, "attribute");
  const bool case_sensitive = arguments.Flag(1, "case_sensitive", false);
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : Iterate(budget, input)) {
    const Value key = attribute == nullptr || attribute->IsNone() ? item : Dotted(budget, item, *attribute);
    keyed.emplace_back(FoldCase(key, case_sensitive), item);
  }
  SortBy(budget, keyed, arguments.Flag(0, "reverse", false));
  Items out;
  for (auto& item : keyed) out.push_back(std::move(item.second));
  return Value::MakeList(std::move(out));
}

Value DictSorted(Budget& budget, const Value& input, const Arguments& arguments) {
  if (!input.IsDict()) TemplateError("dictsort: a ", input.TypeName(), " where a dict is wanted");
  const bool by_value = arguments.Text(1, "by", "key") == "value";
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : input.Members()) {
    keyed.emplace_back(FoldCase(by_value ? value : key, arguments.Flag(0, "case_sensitive", false)),
                       Value::MakeList({key, value}, true));
  }
  SortBy(budget, keyed, arguments.Flag(2, "reverse", false));
  Items out;
  for (auto& item : keyed) out.push_back(std::move(item.second));
  return Value::MakeList(std::move(out));
}

Value Unique(Budget& budget, const Value& input, const Arguments& arguments) {
  Items out, seen;
  for (const Value& item : Iterate(budget, input)) {
    budget.Spend(1 + seen.size());
    const Value* attribute = arguments.Get(1, "attribute");
    const Value key = FoldCase(attribute == nullptr ? item : Dotted(budget, item, *attribute),
                               arguments.Flag(0, "case_sensitive", false));
    if (std::any_of(seen.begin(), seen.end(), [&](const Value& other) { return Equal(key, other); })) continue;
    seen.push_back(key);
    out.push_back(item);
  }
  return Value::MakeList(std::move(out));
}

Value Joined(Budget& budget, const Value& input, const Arguments& arguments) {
  const Value* attribute = arguments.Get(1, "attribute");
  const Value* given = arguments.Get(0, "d");
  const MarkedText separator = given == nullptr ? MarkedText() : given->Str();
  MarkedText out;
  bool first = true;
  for (const Value& item : Iterate(budget, input)) {
    if (!first) out.Append(separator);
    first = false;
    const MarkedText text = (attribute == nullptr ? item : Dotted(budget, item, *attribute)).Str();
    budget.SpendText(text);
    budget.SpendText(separator);
    out.Append(text);
  }
  return out;
}

Value Indented(Budget& budget, const MarkedText& input, const Arguments& arguments) {
  const Value* width = arguments.Get(0, "width");
  if (width != nullptr && width->IsInteger() && (width->Integer() < 0 || width->Integer() > 1000)) {
    TemplateError("indent: a width of ", width->Integer());
  }
  const MarkedText indent = width != nullptr && width->IsString()
                                ? width->Marked()
                                : MarkedText(std::string(static_cast<size_t>(arguments.Integer(0, "width", 4)), ' '));
  const bool first = arguments.Flag(1, "first", false), blank = arguments.Flag(2, "blank", false);
  const std::string& text = input.text;
  MarkedText out;
  size_t begin = 0;
  for (bool first_line = true; begin <= text.size(); first_line = false) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const bool wanted = first_line ? first : blank || end > begin;
    if (!first_line) out.Append("\n");
    if (wanted) out.Append(indent);
    out.AppendPart(input, begin, end);
    budget.SpendText(indent);
    budget.SpendText(end - begin);
    begin = end + 1;
  }
  return out;
}

Value ToInteger(const Value& input, const Arguments& arguments) {
  const int64_t fallback = arguments.Integer(0, "default", 0);
  if (input.IsInteger()) return input.Integer();
  if (input.Is<double>() && std::fabs(input.As<double>()) < 9e18) return static_cast<int64_t>(input.As<double>());
  if (!input.IsString()) return fallback;
  const std::string_view text = Strip(input.Text(), true, true);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data() + text.starts_with('+'), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size()) return value;
  double number = 0;
  const auto [stop, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = failed == std::errc() && stop == text.data() + text.size() && std::fabs(number) < 9e18;
  return whole ? static_cast<int64_t>(number) : fallback;
}

Value ToFloat(const Value& input, const Arguments& arguments) {
  if (input.IsNumber()) return input.Number();
  if (input.IsString()) {
    const std::string_view text = Strip(input.Text(), true, true);
    double number = 0;
    const auto [end, error] = std::from_chars(text.data() + text.starts_with('+'), text.data() + text.size(), number);
    if (error == std::errc() && end == text.data() + text.size()) return number;
  }
  const Value* fallback = arguments.Get(0, "default");
  return fallback == nullptr ? Value(0.0) : *fallback;
}

Value Extreme(Budget& budget, const Value& input, const Arguments& arguments, int sign) {
  const Items items = Iterate(budget, input);
  const Value* attribute = arguments.Get(1, "attribute");
  const auto key = [&](const Value& item) {
    return FoldCase(attribute == nullptr ? item : Dotted(budget, item, *attribute),
                    arguments.Flag(0, "case_sensitive", false));
  };
  const Value* best = nullptr;
  for (const Value& item : items) {
    if (best == nullptr || Compare(key(item), key(*best)) * sign > 0) best = &item;
  }
  return best == nullptr ? Value::UndefinedNamed("an item of an empty sequence") : *best;
}

std::string Escaped(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

// Filters whose input is taken as a str.
Value TextFilter(Budget& budget, const std::string& name, const Value& input, const Arguments& arguments) {
  const MarkedText text = input.Str();
  budget.SpendText(text);
  if (name == "trim") return CallMethod(budget, text, "strip", arguments);
  if (name == "upper" || name == "lower" || name == "title" || name == "capitalize" || name == "replace") {
    return CallMethod(budget, text, name, arguments);
  }
  if (name == "string" || name == "safe") return text;
  if (name == "e" || name == "escape") return text.Mapped(Escaped);
  if (name == "indent") return Indented(budget, text, arguments);
  if (name == "wordcount") {
    const Value words = CallMethod(budget, text, "split", {});
    return Length(words);
  }
  TemplateError("the filter \"", name.substr(0, 40), "\" is not known");
}

Value Rounded(const Value& input, const Arguments& arguments) {
  if (!input.IsNumber()) TemplateError("round: a ", input.TypeName(), " where a number is wanted");
  const std::string method = arguments.Text(1, "method", "common");
  const double scale = std::pow(10, static_cast<double>(arguments.Integer(0, "precision", 0)));
  const double scaled = input.Number() * scale;
  if (!std::isfinite(scaled) || scale == 0) return input.Number();
  return (method == "ceil"    ? std::ceil(scaled)
          : method == "floor" ? std::floor(scaled)
                              : std::nearbyint(scaled)) /
         scale;
}

Value Batched(Budget& budget, const Value& input, const Arguments& arguments) {
  const int64_t size = arguments.Integer(0, "linecount", 1);
  const Value* fill = arguments.Get(1, "fill_with");
  if (size < 1 || size > 100000) TemplateError("batch: a size of ", size);
  Items out, row;
  const auto flush = [&] { out.push_back(Value::MakeList(std::exchange(row, {}))); };
  for (Value& item : Iterate(budget, input)) {
    if (static_cast<int64_t>(row.size()) == size) flush();
    row.push_back(std::move(item));
  }
  if (fill != nullptr && !row.empty()) {
    budget.Spend(static_cast<size_t>(size));
    while (static_cast<int64_t>(row.size()) < size) row.push_back(*fill);
  }
  if (!row.empty()) flush();
  return Value::MakeList(std::move(out));
}

}  // namespace

Value ApplyFilter(Budget& budget, const std::string& name, const Value& input, const Arguments& arguments) {
  budget.Spend(1);
  if (name == "default" || name == "d") {
    const bool use = input.IsUndefined() || (arguments.Flag(1, "boolean", false) && !input.Truthy());
    const Value* fallback = arguments.Get(0, "default_value");
    return use ? (fallback == nullptr ? Value("") : *fallback) : input;
  }
  if (name == "length" || name == "count") return Length(input);
  if (name == "tojson") {
    JsonStyle style;
    style.ensure_ascii = arguments.Flag(0, "ensure_ascii", false);
    style.indent = static_cast<int>(std::clamp<int64_t>(arguments.Integer(1, "indent", -1), -1, 64));
    if (style.indent >= 0) style.item_separator.pop_back();
    const Value* separators = arguments.Get(2, "separators");
    if (separators != nullptr && separators->IsList() && separators->Items().size() == 2) {
      style.item_separator = separators->Items()[0].Str().text;
      style.key_separator = separators->Items()[1].Str().text;
    }
    style.sort_keys = arguments.Flag(3, "sort_keys", false);
    MarkedText text = ToJson(input, style);
    budget.SpendText(text);
    return text;
  }
  if (name == "join") return Joined(budget, input, arguments);
  if (name == "list") return Value::MakeList(Iterate(budget, input));
  if (name == "items") {
    return input.IsUndefined() ? Value::MakeList({}) : CallMethod(budget, input, "items", {});
  }
  if (name == "first" || name == "last") {
    const Items items = Iterate(budget, input);
    if (items.empty()) return Value::UndefinedNamed("the " + name + " item of an empty sequence");
    return name == "first" ? items.front() : items.back();
  }
  if (name == "reverse") {
    Items items = Iterate(budget, input);
    std::reverse(items.begin(), items.end());
    if (!input.IsString()) return Value::MakeList(std::move(items));
    return Joined(budget, Value::MakeList(std::move(items)), {});
  }
  if (name == "map") return Mapped(budget, input, arguments);
  if (name == "select" || name == "reject") return Selected(budget, input, arguments, name == "select", false);
  if (name == "selectattr" || name == "rejectattr") {
    return Selected(budget, input, arguments, name == "selectattr", true);
  }
  if (name == "sort") return Sorted(budget, input, arguments);
  if (name == "dictsort") return DictSorted(budget, input, arguments);
  if (name == "unique") return Unique(budget, input, arguments);
  if (name == "batch") return Batched(budget, input, arguments);
  if (name == "min") return Extreme(budget, input, arguments, -1);
  if (name == "max") return Extreme(budget, input, arguments, 1);
  if (name == "int") return ToInteger(input, arguments);
  if (name == "float") return ToFloat(input, arguments);
  if (name == "round") return Rounded(input, arguments);
  if (name == "abs") {
    if (!input.IsNumber()) TemplateError("abs: a ", input.TypeName(), " where a number is wanted");
    if (!input.IsInteger()) return std::fabs(input.Number());
    if (input.Integer() == INT64_MIN) TemplateError("an integer overflows");
    return std::abs(input.Integer());
  }
  if (name == "attr") return GetAttribute(input, arguments.Text(0, "name", ""));
  if (name == "sum") {
    double total = arguments.Get(1, "start") != nullptr ? arguments.Get(1, "start")->Number() : 0;
    bool whole = true;
    const Value* attribute = arguments.Get(0, "attribute");
    for (const Value& item : Iterate(budget, input)) {
      const Value value = attribute == nullptr ? item : Dotted(budget, item, *attribute);
      if (!value.IsNumber()) TemplateError("sum: a ", value.TypeName(), " where a number is wanted");
      whole = whole && value.IsInteger();
      total += value.Number();
    }
    return whole && std::fabs(total) < 9e15 ? Value(static_cast<int64_t>(total)) : Value(total);
  }
  return TextFilter(budget, name, input, arguments);
}

bool ApplyTest(Budget& budget, const std::string& name, const Value& input, const Arguments& arguments) {
  budget.Spend(1);
  const auto other = [&]() -> const Value& {
    const Value* value = arguments.Get(0, "other");
    if (value == nullptr) TemplateError("the test \"", name, "\" wants an argument");
    return *value;
  };
  if (name == "defined") return !input.IsUndefined();
  if (name == "undefined") return input.IsUndefined();
  if (name == "none") return input.IsNone();
  if (name == "boolean") return input.Is<bool>();
  if (name == "true") return input.Is<bool>() && input.As<bool>();
  if (name == "false") return input.Is<bool>() && !input.As<bool>();
  if (name == "integer") return input.Is<int64_t>();
  if (name == "float") return input.Is<double>();
  if (name == "number") return input.IsNumber();
  if (name == "string") return input.IsString();
  if (name == "mapping") return input.IsDict();
  if (name == "sequence" || name == "iterable") {
    return input.IsString() || input.IsList() || input.IsDict() || input.IsUndefined();
  }
  if (name == "callable") return input.Is<Function>() || input.Is<const Macro*>();
  if (name == "in") return Contains(budget, other(), input);
  if (name == "eq" || name == "equalto" || name == "==") return Equal(input, other());
  if (name == "ne" || name == "!=") return !Equal(input, other());
  if (name == "lt" || name == "lessthan" || name == "<") return Compare(input, other()) < 0;
  if (name == "le" || name == "<=") return Compare(input, other()) <= 0;
  if (name == "gt" || name == "greaterthan" || name == ">") return Compare(input, other()) > 0;
  if (name == "ge" || name == ">=") return Compare(input, other()) >= 0;
  if (name == "sameas") {
    return input.TypeName() == other().TypeName() && (input.IsNone() || Equal(input, other()));
  }
  if (name == "lower") return CallMethod(budget, input.Str(), "islower", {}).Truthy();
  if (name == "upper") return CallMethod(budget, input.Str(), "isupper", {}).Truthy();
  if (name == "odd" || name == "even" || name == "divisibleby") {
    const int64_t divisor = name == "divisibleby" ? (other().IsInteger() ? other().Integer() : 0) : 2;
    if (!input.IsInteger() || divisor == 0) TemplateError("the test \"", name, "\" wants integers");
    if (divisor == -1) return true;
    return (input.Integer() % divisor == 0) != (name == "odd");
  }
  TemplateError("the test \"", name.substr(0, 40), "\" is not known");
}

}  // namespace cambium::jinja
