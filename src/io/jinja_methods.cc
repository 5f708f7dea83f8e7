// Methods of Python's str, dict and list that templates use, and the global functions.
#include <algorithm>
#include <ctime>

#include "io/jinja_runtime.h"
#include "io/unicode.h"

namespace cambium::jinja {
namespace {

constexpr std::string_view kStringMethods[] = {
    "strip",    "lstrip",  "rstrip",  "split",        "rsplit",       "splitlines", "startswith",
    "endswith", "upper",   "lower",   "title",        "capitalize",   "replace",    "find",
    "rfind",    "index",   "count",   "join",         "isdigit",      "isalpha",    "isalnum",
    "isspace",  "isupper", "islower", "removeprefix", "removesuffix", "zfill",      "format"};
constexpr std::string_view kDictMethods[] = {"items", "keys", "values", "get", "copy"};
constexpr std::string_view kListMethods[] = {"index", "count", "copy"};

template <size_t n>
bool Among(const std::string_view (&names)[n], std::string_view name) {
  return std::find(names, names + n, name) != names + n;
}

Value Splitted(Budget& budget, const MarkedText& text, const Arguments& arguments, bool from_right) {
  const Value* separator = arguments.Get(0, "sep");
  int64_t most = arguments.Integer(1, "maxsplit", -1);
  if (most < 0) most = INT64_MAX;
  std::vector<Value> parts;
  std::string_view rest = text.text;
  const auto add = [&](std::string_view part) {
    budget.SpendText(part.size());
    parts.emplace_back(text.Part(part));
  };
  if (separator == nullptr || separator->IsNone()) {  // at runs of white space
    if (from_right) {
      while (!(rest = Strip(rest, false, true)).empty()) {
        size_t cut = rest.size();
        if (most-- <= 0) {
          cut = 0;
        } else {
          while (cut > 0 && Strip(rest.substr(0, cut), false, true).size() == cut) --cut;
        }
        add(rest.substr(cut));
        rest = rest.substr(0, cut);
      }
      std::reverse(parts.begin(), parts.end());
      return Value::MakeList(std::move(parts));
    }
    while (!(rest = Strip(rest, true, false)).empty()) {
      size_t cut = 0;
      if (most-- <= 0) {
        cut = rest.size();
      } else {
        while (cut < rest.size()) {
          const CodePoint c = DecodeUtf8(rest.data() + cut, rest.data() + rest.size());
          if (c.valid && IsPythonSpace(c.value)) break;
          cut += c.length;
        }
      }
      add(rest.substr(0, cut));
      rest.remove_prefix(cut);
    }
    return Value::MakeList(std::move(parts));
  }
  if (!separator->IsString() || separator->Text().empty()) TemplateError("split: the separator is empty");
  const std::string& sep = separator->Text();
  while (true) {
    const size_t cut = most-- > 0 ? (from_right ? rest.rfind(sep) : rest.find(sep)) : rest.npos;
    if (cut == rest.npos) break;
    add(from_right ? rest.substr(cut + sep.size()) : rest.substr(0, cut));
    rest = from_right ? rest.substr(0, cut) : rest.substr(cut + sep.size());
  }
  add(rest);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return Value::MakeList(std::move(parts));
}

Value SplitLines(Budget& budget, const MarkedText& input, bool keep_ends) {
  std::string_view text = input.text;
  std::vector<Value> lines;
  while (!text.empty()) {
    size_t end = text.find_first_of("\n\r\v\f");
    size_t next = end;
    if (end == text.npos) {
      end = next = text.size();
    } else {
      next += text[end] == '\r' && end + 1 < text.size() && text[end + 1] == '\n' ? 2 : 1;
    }
    budget.SpendText(end);
    lines.emplace_back(input.Part(text.substr(0, keep_ends ? next : end)));
    text.remove_prefix(next);
  }
  return Value::MakeList(std::move(lines));
}

bool StartsOrEnds(const std::string& text, const Arguments& arguments, bool ends) {
  const Value* wanted = arguments.Get(0, "prefix");
  if (wanted == nullptr) TemplateError("startswith: an argument is missing");
  const auto fits = [&](const Value& part) {
    if (!part.IsString()) TemplateError("startswith: a ", part.TypeName(), " where a str is wanted");
    return ends ? text.ends_with(part.Text()) : text.starts_with(part.Text());
  };
  if (wanted->IsList()) return std::any_of(wanted->Items().begin(), wanted->Items().end(), fits);
  return fits(*wanted);
}

template <class F>
bool AllCharacters(std::string_view text, F f) {
  const char* end = text.data() + text.size();
  for (const char* at = text.data(); at < end;) {
    const CodePoint c = DecodeUtf8(at, end);
    if (!c.valid || !f(c.value)) return false;
    at += c.length;
  }
  return !text.empty();
}

std::string Capitalized(const std::string& text) {
  if (text.empty()) return text;
  const int first = DecodeUtf8(text.data(), text.data() + text.size()).length;
  return ToUpper(text.substr(0, first)) + ToLower(text.substr(first));
}

// str.format with plain fields: {}, {0} or {name}. Attributes, items, conversions and widths are refused.
Value Formatted(Budget& budget, const MarkedText& input, const Arguments& arguments) {
  std::string_view text = input.text;
  MarkedText out;
  size_t next = 0;
  while (!text.empty()) {
    const size_t brace = text.find_first_of("{}");
    out.Append(input.Part(text.substr(0, brace)));
    if (brace == text.npos) break;
    text.remove_prefix(brace);
    if (text.size() > 1 && text[1] == text[0]) {
      out.Append(text.substr(0, 1));
      text.remove_prefix(2);
      continue;
    }
    const size_t close = text.find('}');
    if (text[0] == '}' || close == text.npos) TemplateError("format: a brace is not matched");
    const std::string_view field = text.substr(1, close - 1);
    size_t index = SIZE_MAX;
    if (field.empty()) {
      index = next++;
    } else if (field.size() < 4 &&
               std::all_of(field.begin(), field.end(), [](char c) { return c >= '0' && c <= '9'; })) {
      index = static_cast<size_t>(std::stoi(std::string(field)));
    } else if (field.find_first_of(".[]!:") != field.npos) {
      TemplateError("format: the field \"", field.substr(0, 40), "\" is not a plain one");
    }
    const Value* value = arguments.Get(index, field);
    if (value == nullptr) TemplateError("format: no argument for the field \"", field.substr(0, 40), "\"");
    const MarkedText part = value->Str();
    budget.SpendText(brace);
    budget.SpendText(part);
    out.Append(part);
    text.remove_prefix(close + 1);
  }
  return out;
}

Value CallStringMethod(Budget& budget, const MarkedText& input, const std::string& name, const Arguments& arguments) {
  const std::string& text = input.text;
  budget.SpendText(input);
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const Value* characters = arguments.Get(0, "chars");
    const bool given = characters != nullptr && characters->IsString();
    return input.Part(Strip(text, name != "rstrip", name != "lstrip", given ? &characters->Text() : nullptr));
  }
  if (name == "split" || name == "rsplit") return Splitted(budget, input, arguments, name == "rsplit");
  if (name == "splitlines") return SplitLines(budget, input, arguments.Flag(0, "keepends", false));
  if (name == "startswith" || name == "endswith") return StartsOrEnds(text, arguments, name == "endswith");
  if (name == "upper") return input.Mapped(ToUpper);
  if (name == "lower") return input.Mapped(ToLower);
  if (name == "title") return input.Rewritten(ToTitle(text));
  if (name == "capitalize") return input.Rewritten(Capitalized(text));
  if (name == "replace") return Replaced(budget, input, arguments);
  if (name == "find" || name == "rfind" || name == "index") {
    const std::string wanted = arguments.Text(0, "sub", "");
    const size_t at = name == "rfind" ? text.rfind(wanted) : text.find(wanted);
    if (at == text.npos && name == "index") TemplateError("index: the text is not found");
    return at == text.npos ? int64_t{-1} : static_cast<int64_t>(CountCodePoints(text.substr(0, at)));
  }
  if (name == "count") {
    const std::string wanted = arguments.Text(0, "sub", "");
    if (wanted.empty()) return static_cast<int64_t>(CountCodePoints(text) + 1);
    int64_t count = 0;
    for (size_t at = text.find(wanted); at != text.npos; at = text.find(wanted, at + wanted.size())) ++count;
    return count;
  }
  if (name == "join") {
    const Value* items = arguments.Get(0, "iterable");
    return ApplyFilter(budget, "join", items == nullptr ? Value() : *items, {{Value(input)}, {}});
  }
  if (name == "isdigit") return AllCharacters(text, [](uint32_t c) { return c >= '0' && c <= '9'; });
  if (name == "isalpha") return AllCharacters(text, [](uint32_t c) { return ClassOf(c) == CharClass::kLetter; });
  if (name == "isalnum") {
    return AllCharacters(
        text, [](uint32_t c) { return ClassOf(c) == CharClass::kLetter || ClassOf(c) == CharClass::kNumber; });
  }
  if (name == "isspace") return AllCharacters(text, IsPythonSpace);
  if (name == "isupper") return text == ToUpper(text) && text != ToLower(text);
  if (name == "islower") return text == ToLower(text) && text != ToUpper(text);
  if (name == "removeprefix" || name == "removesuffix") {
    const std::string part = arguments.Text(0, "prefix", "");
    const bool prefix = name == "removeprefix";
    if (!(prefix ? text.starts_with(part) : text.ends_with(part))) return input;
    return prefix ? input.Part(part.size(), text.size()) : input.Part(0, text.size() - part.size());
  }
  if (name == "format") return Formatted(budget, input, arguments);
  const int64_t width = arguments.Integer(0, "width", 0);  // zfill
  const auto length = static_cast<int64_t>(CountCodePoints(text));
  if (width <= length) return input;
  budget.Spend(static_cast<size_t>(width));
  const bool sign = text.starts_with('-') || text.starts_with('+');
  MarkedText out = input.Part(0, sign);
  out.Append(std::string(static_cast<size_t>(width - length), '0'));
  out.AppendPart(input, sign, text.size());
  return out;
}

Value CallDictMethod(Budget& budget, const Value& dict, const std::string& name, const Arguments& arguments) {
  budget.Spend(dict.Members().size());
  if (name == "get") {
    const Value* key = arguments.Get(0, "key");
    if (key == nullptr) TemplateError("get: an argument is missing");
    if (const Value* found = dict.Find(*key)) return *found;
    const Value* fallback = arguments.Get(1, "default");
    return fallback == nullptr ? Value() : *fallback;
  }
  if (name == "copy") return dict;
  std::vector<Value> items;
  for (const auto& [key, value] : dict.Members()) {
    items.push_back(name == "keys" ? key : name == "values" ? value : Value::MakeList({key, value}, true));
  }
  return Value::MakeList(std::move(items));
}

Value Range(Budget& budget, const Arguments& arguments) {
  constexpr int64_t kMaxRange = 100000;  // jinja2's sandbox has the same limit
  const auto& given = arguments.positional;
  if (given.empty() || given.size() > 3) TemplateError("range: 1 to 3 arguments are wanted");
  for (const Value& value : given) {
    if (!value.IsInteger()) TemplateError("range: a ", value.TypeName(), " where an int is wanted");
  }
  const int64_t start = given.size() > 1 ? given[0].Integer() : 0;
  const int64_t stop = given.size() > 1 ? given[1].Integer() : given[0].Integer();
  const int64_t step = given.size() > 2 ? given[2].Integer() : 1;
  if (step == 0) TemplateError("range: the step is 0");
  std::vector<Value> items;
  for (__int128 i = start; step > 0 ? i < stop : i > stop; i += step) {
    if (static_cast<int64_t>(items.size()) >= kMaxRange) TemplateError("range: more than ", kMaxRange, " items");
    budget.Spend(1);
    items.emplace_back(static_cast<int64_t>(i));
  }
  return Value::MakeList(std::move(items));
}

Value TimeNow(const std::string& format) {
  if (format.size() > 256) TemplateError("strftime_now: a format of ", format.size(), " bytes");
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  localtime_r(&now, &parts);
  char text[4096];
  return std::string(text, std::strftime(text, sizeof text, format.c_str(), &parts));
}

}  // namespace

std::string Arguments::Text(size_t index, std::string_view name, std::string_view fallback) const {
  const Value* value = Get(index, name);
  if (value == nullptr) return std::string(fallback);
  if (!value->IsString()) TemplateError(name, ": a ", value->TypeName(), " where a str is wanted");
  return value->Text();
}

MarkedText Arguments::Marked(size_t index, std::string_view name) const {
  const Value* value = Get(index, name);
  if (value == nullptr) return {};
  if (!value->IsString()) TemplateError(name, ": a ", value->TypeName(), " where a str is wanted");
  return value->Marked();
}

int64_t Arguments::Integer(size_t index, std::string_view name, int64_t fallback) const {
  const Value* value = Get(index, name);
  if (value == nullptr || value->IsNone()) return fallback;
  if (!value->IsInteger()) TemplateError(name, ": a ", value->TypeName(), " where an int is wanted");
  return value->Integer();
}

bool Arguments::Flag(size_t index, std::string_view name, bool fallback) const {
  const Value* value = Get(index, name);
  return value == nullptr ? fallback : value->Truthy();
}

bool HasMethod(const Value& object, std::string_view name) {
  if (object.IsString()) return Among(kStringMethods, name);
  if (object.IsDict()) return Among(kDictMethods, name);
  return object.IsList() && Among(kListMethods, name);
}

Value CallMethod(Budget& budget, const Value& object, const std::string& name, const Arguments& arguments) {
  if (!HasMethod(object, name)) TemplateError("a ", object.TypeName(), " has no method \"", name, "\" here");
  if (object.IsString()) return CallStringMethod(budget, object.Marked(), name, arguments);
  if (object.IsDict()) return CallDictMethod(budget, object, name, arguments);
  if (name == "copy") return object;
  const Value* wanted = arguments.Get(0, "value");
  if (wanted == nullptr) TemplateError(name, ": an argument is missing");
  int64_t count = 0;
  for (size_t i = 0; i < object.Items().size(); ++i) {
    budget.Spend(1);
    if (!Equal(object.Items()[i], *wanted)) continue;
    if (name == "index") return static_cast<int64_t>(i);
    ++count;
  }
  if (name == "index") TemplateError("index: the value is not in the list");
  return count;
}

Value CallFunction(Budget& budget, const std::string& name, const Arguments& arguments) {
  if (name == "range") return Range(budget, arguments);
  if (name == "raise_exception") {
    Fail(ErrorCode::kUsage, "chat template: ", arguments.positional.empty() ? "" : arguments.positional[0].Str().text);
  }
  if (name == "strftime_now") return TimeNow(arguments.Text(0, "format", ""));
  std::vector<std::pair<Value, Value>> members;
  for (const Value& value : arguments.positional) {
    if (!value.IsDict()) TemplateError(name, ": a ", value.TypeName(), " where a dict is wanted");
    members.insert(members.end(), value.Members().begin(), value.Members().end());
  }
  for (const auto& [key, value] : arguments.keywords) members.emplace_back(Value(key), value);
  budget.Spend(members.size());
  Value dict = Value::MakeDict(std::move(members));
  if (name == "dict") return dict;
  auto data = std::make_shared<NamespaceData>();
  for (const auto& [key, value] : dict.Members()) {
    if (!key.IsString()) TemplateError("namespace: a name of type ", key.TypeName());
    data->items.emplace_back(key.Text(), value);
  }
  return Value::Storage(std::move(data));
}

}  // namespace cambium::jinja
