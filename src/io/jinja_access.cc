// Attributes, items, slices and iteration of template values, and the string helpers that filters and methods share.
#include <algorithm>

#include "io/jinja_runtime.h"
#include "io/unicode.h"

namespace cambium::jinja {
namespace {

void RefusePrivate(const Value& object, std::string_view name) {
  if (name.starts_with("__")) {
    TemplateError("access to attribute \"", name.substr(0, 40), "\" of a ", object.TypeName(), " is unsafe");
  }
}

[[noreturn]] void RefuseUndefined(const Value& object) {
  TemplateError("\"", object.As<Undefined>().name, "\" is undefined");
}

}  // namespace

bool IsPythonSpace(uint32_t c) { return (c >= 0x1C && c <= 0x1F) || ClassOf(c) == CharClass::kSpace; }

Value GetAttribute(const Value& object, const std::string& name) {
  if (object.IsUndefined()) RefuseUndefined(object);
  if (HasMethod(object, name)) return Value::Storage(Function{name});
  if (object.IsDict()) {
    const Value* found = object.Find(Value(name));
    if (found != nullptr) return *found;
  } else if (object.Is<Value::Namespace>()) {
    for (const auto& [key, value] : object.As<Value::Namespace>()->items) {
      if (key == name) return value;
    }
  }
  RefusePrivate(object, name);
  return Value::UndefinedNamed(name);
}

Value GetItem(const Value& object, const Value& key) {
  if (object.IsUndefined()) RefuseUndefined(object);
  if (object.IsDict()) {
    if (const Value* found = object.Find(key)) return *found;
  } else if (key.IsInteger() && (object.IsList() || object.IsString())) {
    const int64_t length = Length(object);
    const int64_t index = key.Integer() < 0 ? key.Integer() + length : key.Integer();
    if (index >= 0 && index < length) {
      if (object.IsList()) return object.Items()[static_cast<size_t>(index)];
      return object.Marked().Part(CodePoints(object.Text())[static_cast<size_t>(index)]);
    }
  }
  if (key.IsString()) return GetAttribute(object, key.Text());
  return Value::UndefinedNamed(key.IsNumber() ? key.Repr().text : key.TypeName());
}

int64_t Length(const Value& value) {
  if (value.IsString()) return static_cast<int64_t>(CountCodePoints(value.Text()));
  if (value.IsList()) return static_cast<int64_t>(value.Items().size());
  if (value.IsDict()) return static_cast<int64_t>(value.Members().size());
  if (value.IsUndefined()) return 0;
  TemplateError("a ", value.TypeName(), " has no length");
}

std::vector<std::string_view> CodePoints(std::string_view text) {
  std::vector<std::string_view> out;
  const char* end = text.data() + text.size();
  for (const char* at = text.data(); at < end;) {
    const int length = DecodeUtf8(at, end).length;
    out.emplace_back(at, length);
    at += length;
  }
  return out;
}

std::vector<Value> Iterate(Budget& budget, const Value& value) {
  std::vector<Value> items;
  if (value.IsList()) {
    budget.Spend(value.Items().size());
    return value.Items();
  }
  if (value.IsDict()) {
    budget.Spend(value.Members().size());
    for (const auto& member : value.Members()) items.push_back(member.first);
  } else if (value.IsString()) {
    budget.Spend(value.Text().size());
    for (std::string_view c : CodePoints(value.Text())) items.emplace_back(value.Marked().Part(c));
  } else if (!value.IsUndefined()) {
    TemplateError("a ", value.TypeName(), " cannot be iterated over");
  }
  return items;
}

bool Contains(Budget& budget, const Value& container, const Value& item) {
  if (container.IsString()) {
    if (!item.IsString()) TemplateError("in: a ", item.TypeName(), " is not part of a str");
    budget.SpendText(container.Text().size());
    return container.Text().find(item.Text()) != std::string::npos;
  }
  if (container.IsDict()) {
    budget.Spend(container.Members().size());
    return container.Find(item) != nullptr;
  }
  const std::vector<Value> items = Iterate(budget, container);
  return std::any_of(items.begin(), items.end(), [&](const Value& other) { return Equal(other, item); });
}

Value Sliced(Budget& budget, const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (object.IsUndefined()) RefuseUndefined(object);
  if (!object.IsList() && !object.IsString()) TemplateError("a ", object.TypeName(), " cannot be sliced");
  for (const Value* bound : {&start, &stop, &step}) {
    if (!bound->IsNone() && !bound->IsInteger()) TemplateError("a slice bound is a ", bound->TypeName());
  }
  const int64_t by = step.IsNone() ? 1 : step.Integer();
  if (by == 0) TemplateError("a slice step is 0");
  const std::vector<std::string_view> letters =
      object.IsString() ? CodePoints(object.Text()) : std::vector<std::string_view>();
  const auto length = static_cast<int64_t>(object.IsString() ? letters.size() : object.Items().size());
  const auto bound = [&](const Value& value, int64_t fallback) {
    if (value.IsNone()) return fallback;
    int64_t at = value.Integer();
    if (at < 0) at = at < -length ? -1 : at + length;
    return std::clamp<int64_t>(at, by > 0 ? 0 : -1, by > 0 ? length : length - 1);
  };
  const int64_t from = bound(start, by > 0 ? 0 : length - 1), to = bound(stop, by > 0 ? length : -1);
  budget.Spend(static_cast<size_t>(length));
  std::vector<Value> items;
  MarkedText text;
  for (__int128 i = from; by > 0 ? i < to : i > to; i += by) {
    const auto at = static_cast<size_t>(i);
    if (object.IsString()) {
      text.Append(object.Marked().Part(letters[at]));
    } else {
      items.push_back(object.Items()[at]);
    }
  }
  if (object.IsString()) return text;
  return Value::MakeList(std::move(items), object.As<Value::List>()->tuple);
}

std::string_view Strip(std::string_view text, bool left, bool right, const std::string* characters) {
  const auto strips = [&](std::string_view c) {
    if (characters != nullptr) return characters->find(c) != std::string::npos;
    const CodePoint first = DecodeUtf8(c.data(), c.data() + c.size());
    return first.valid && IsPythonSpace(first.value);
  };
  while (left && !text.empty()) {
    const int length = DecodeUtf8(text.data(), text.data() + text.size()).length;
    if (!strips(text.substr(0, length))) break;
    text.remove_prefix(length);
  }
  while (right && !text.empty()) {
    size_t start = text.size() - 1;
    while (start > 0 && text.size() - start < 4 && (text[start] & 0xC0) == 0x80) --start;
    if (!strips(text.substr(start))) break;
    text.remove_suffix(text.size() - start);
  }
  return text;
}

MarkedText Replaced(Budget& budget, const MarkedText& text, const Arguments& arguments) {
  const std::string from = arguments.Text(0, "old", "");
  const MarkedText to = arguments.Marked(1, "new");
  int64_t count = arguments.Integer(2, "count", -1);
  if (count < 0) count = INT64_MAX;
  MarkedText out;
  const auto replace = [&] {
    budget.SpendText(to);
    out.Append(to);
  };
  if (from.empty()) {  // between all characters
    for (std::string_view c : CodePoints(text.text)) {
      if (count-- > 0) replace();
      out.Append(text.Part(c));
    }
    if (count > 0) replace();
    return out;
  }
  size_t done = 0;
  while (count-- > 0) {
    const size_t at = text.text.find(from, done);
    if (at == std::string::npos) break;
    budget.SpendText(at - done);
    out.AppendPart(text, done, at);
    replace();
    done = at + from.size();
  }
  out.AppendPart(text, done, text.size());
  return out;
}

}  // namespace cambium::jinja
