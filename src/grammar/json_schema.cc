#include "grammar/json_schema.h"

#include <algorithm>
#include <cmath>

#include "cambium/error.h"
#include "grammar/json_schema_compiler.h"
#include "grammar/json_strings.h"

namespace cambium {
namespace {

// Keywords that say something of one type alone.
const std::map<std::string, std::vector<const char*>>& TypedKeywords() {
  static const std::map<std::string, std::vector<const char*>> kKeywords = {
      {"string", {"minLength", "maxLength", "pattern", "format"}},
      {"number", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}},
      {"array", {"items", "prefixItems", "minItems", "maxItems", "contains", "uniqueItems", "unevaluatedItems"}},
      {"object",
       {"properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties",
        "maxProperties", "dependentRequired", "dependentSchemas", "unevaluatedProperties"}},
  };
  return kKeywords;
}

bool IsNumberFormat(const SchemaJson& format) {
  return format == "int32" || format == "int64" || format == "float" || format == "double";
}

}  // namespace

std::string JsonText(const SchemaJson& value, JsonStyle style) {
  if (value.is_array()) {
    std::string text = "[";
    for (const SchemaJson& item : value) text += (text.size() > 1 ? style.comma() : "") + JsonText(item, style);
    return text + "]";
  }
  if (value.is_object()) {
    std::string text = "{";
    for (const auto& [key, item] : value.items()) {
      text += (text.size() > 1 ? style.comma() : "") + SchemaJson(key).dump() + style.colon() + JsonText(item, style);
    }
    return text + "}";
  }
  return value.dump();
}

Rules::Expr CompileJsonSchema(const SchemaJson& schema, const std::string& what, JsonStyle style, Rules& rules) {
  SchemaDocument document(schema, what);
  return SchemaCompiler(document, style, rules).Compile();
}

Rules::Expr SchemaCompiler::Compile() {
  unevaluated_ = document_.root().dump().find("\"unevaluated") != std::string::npos;
  const Rules::Expr value = ValueOf({&document_.root()});
  while (!open_.empty()) {
    const auto [rule, schemas] = std::move(open_.back());
    open_.pop_back();
    rules_.Define(rule, Write(schemas));
  }
  return value;
}

// A call of the rule of a list of schemas.
Rules::Expr SchemaCompiler::ValueOf(Schemas schemas) {
  std::erase_if(schemas, [](const SchemaJson* s) { return *s == true || (s->is_object() && s->empty()); });
  if (std::ranges::any_of(schemas, [](const SchemaJson* s) { return *s == false; })) return rules_.Nothing();
  std::ranges::sort(schemas);
  schemas.erase(std::unique(schemas.begin(), schemas.end()), schemas.end());
  const auto [at, fresh] = known_.try_emplace(schemas, 0);
  if (fresh) {
    at->second = rules_.NewRule("value " + std::to_string(known_.size()));
    open_.push_back({at->second, std::move(schemas)});
  }
  return rules_.Call(at->second);
}

// The values that enum or const list, where the schemas themselves do or what they refer to.
std::optional<SchemaJson> SchemaCompiler::ListedBy(Schemas schemas) const {
  for (size_t i = 0; i < schemas.size(); ++i) {
    const SchemaJson* const schema = schemas[i];
    if (!schema->is_object()) continue;
    if (const auto found = schema->find("const"); found != schema->end()) return SchemaJson::array({*found});
    if (const auto found = schema->find("enum"); found != schema->end()) {
      if (!found->is_array()) document_.Wrong("\"enum\" is no list");
      return *found;
    }
    const auto add = [&](const SchemaJson& other) {
      if (std::ranges::find(schemas, &other) == schemas.end()) schemas.push_back(&other);
    };
    if (const auto ref = schema->find("$ref"); ref != schema->end() && ref->is_string()) {
      add(document_.Resolve(ref->get<std::string>()));
    }
    if (const auto list = schema->find("allOf"); list != schema->end() && list->is_array()) {
      for (const SchemaJson& part : *list) add(part);
    }
  }
  return std::nullopt;
}

template <class Valid>
Rules::Expr SchemaCompiler::WriteListed(const SchemaJson& values, const Valid& valid) {
  std::vector<std::string> texts;
  for (const SchemaJson& value : values) {
    if (valid(value)) texts.push_back(JsonText(value, style_));
  }
  return texts.empty() ? rules_.Nothing() : rules_.Texts(std::move(texts));
}

Rules::Expr SchemaCompiler::Write(const Schemas& schemas) {
  if (const auto values = ListedBy(schemas)) {
    for (const SchemaJson* schema : schemas) RequireKnown(*schema);
    return WriteListed(*values, [&](const SchemaJson& value) {
      return std::ranges::all_of(schemas,
                                 [&](const SchemaJson* s) { return IsValid(value, *s, document_, rules_.budget()); });
    });
  }
  std::vector<Rules::Expr> parts;
  for (const Case& one : CasesOf(schemas)) parts.push_back(WriteCase(one));
  return rules_.Choice(std::move(parts));
}

int64_t SchemaCompiler::Most(const Case& all, const char* keyword) const {
  int64_t most = Rules::kNoLimit;
  for (const Entry& entry : all) most = std::min(most, document_.Count(*entry.schema, keyword, Rules::kNoLimit));
  return most;
}

int64_t SchemaCompiler::Least(const Case& all, const char* keyword) const {
  int64_t least = 0;
  for (const Entry& entry : all) least = std::max(least, document_.Count(*entry.schema, keyword, 0));
  return least;
}

// Where no `type` is said, keywords of a type mean that it is one of theirs.
std::set<std::string> SchemaCompiler::TypesOfCase(const Case& all) const {
  std::set<std::string> types = {"null", "boolean", "object", "array", "number", "string"};
  bool said = false;
  for (const Entry& entry : all) {
    if (!entry.schema->contains("type")) continue;
    said = true;
    const std::vector<std::string> own = TypesOf(*entry.schema, document_);
    const auto has = [&](const char* type) { return std::ranges::find(own, type) != own.end(); };
    if (types.erase("number") > 0) types.insert(has("number") ? "number" : "integer");
    std::erase_if(types,
                  [&](const std::string& type) { return !has(type.c_str()) && !(type == "integer" && has("number")); });
  }
  if (said) return types;
  std::set<std::string> meant;
  for (const auto& [type, keywords] : TypedKeywords()) {
    for (const char* keyword : keywords) {
      Each(all, keyword, [&, name = type](const SchemaJson& value) {
        if (std::string(keyword) != "format" || !IsNumberFormat(value)) meant.insert(name);
      });
    }
  }
  return meant.empty() ? types : meant;
}

Rules::Expr SchemaCompiler::WriteCase(const Case& all) {
  Schemas schemas;
  for (const Entry& entry : all) schemas.push_back(entry.schema);
  // What entries refer to are entries too.
  const auto valid = [&](const SchemaJson& value) {
    return std::ranges::all_of(schemas,
                               [&](const SchemaJson* s) { return IsValidHere(value, *s, document_, rules_.budget()); });
  };
  if (const auto values = ListedBy(schemas)) return WriteListed(*values, valid);
  std::vector<Rules::Expr> parts;
  for (const std::string& type : TypesOfCase(all)) {
    if (type == "object") parts.push_back(WriteObject(all));
    if (type == "array") parts.push_back(WriteArray(all));
    if (type == "string") parts.push_back(WriteString(all));
    if (type == "number" || type == "integer") parts.push_back(WriteNumber(all, type == "integer"));
    if (type == "null") parts.push_back(WriteListed(SchemaJson::array({nullptr}), valid));
    if (type == "boolean") parts.push_back(WriteListed(SchemaJson::array({true, false}), valid));
  }
  return rules_.Choice(std::move(parts));
}

Rules::Expr SchemaCompiler::WriteNumber(const Case& all, bool whole) {
  NumberBounds bounds;
  bounds.whole = whole;
  for (const auto& [keyword, exclusive] : {std::pair("minimum", false), std::pair("exclusiveMinimum", true)}) {
    Each(all, keyword, [&, e = exclusive, k = keyword](const SchemaJson& value) {
      bounds.low.push_back({Decimal(value, k, document_), e});
    });
  }
  for (const auto& [keyword, exclusive] : {std::pair("maximum", false), std::pair("exclusiveMaximum", true)}) {
    Each(all, keyword, [&, e = exclusive, k = keyword](const SchemaJson& value) {
      bounds.high.push_back({Decimal(value, k, document_), e});
    });
  }
  Each(all, "format", [&](const SchemaJson& format) {
    if (format == "int32") {
      bounds.low.push_back({"-2147483648", false});
      bounds.high.push_back({"2147483647", false});
    }
    if (format == "int64") {
      bounds.low.push_back({"-9223372036854775808", false});
      bounds.high.push_back({"9223372036854775807", false});
    }
  });
  Each(all, kFraction, [&](const SchemaJson&) { bounds.fraction = true; });
  Each(all, "multipleOf", [&](const SchemaJson& value) { bounds.multiples.push_back(value); });
  Each(all, kNotEnum, [&](const SchemaJson& values) {
    for (const SchemaJson& value : values) {
      if (!value.is_number()) continue;
      std::string text = Decimal(value, "enum", document_);
      if (text == "0" || text == "-0") bounds.excluded.push_back("-0");
      bounds.excluded.push_back(text == "-0" ? "0" : std::move(text));
    }
  });
  return NumbersWithin(bounds, document_, rules_.budget()).Utf8(rules_);
}

std::optional<CharDfa> SchemaCompiler::StringsOf(const Case& all) {
  std::optional<CharDfa> strings;
  CompileBudget& budget = rules_.budget();
  const auto limit = [&](const CharDfa& dfa, bool without) {
    if (!strings) strings = CharDfa::Any();
    strings = without ? strings->Without(dfa, budget) : strings->And(dfa, budget);
  };
  for (const auto& [keyword, without] : {std::pair("pattern", false), std::pair(kNotPattern, true)}) {
    Each(all, keyword, [&, w = without](const SchemaJson& pattern) {
      if (!pattern.is_string())
        document_.Wrong("\"pattern\" is " + pattern.dump().substr(0, 60) + ", expected a string");
      limit(document_.Pattern(pattern.get<std::string>(), budget), w);
    });
  }
  Each(all, "format", [&](const SchemaJson& format) {
    if (format == "password" || format == "binary") return;
    limit(FormatOf(format, document_, budget), false);
  });
  Each(all, kNotEnum, [&](const SchemaJson& values) {
    std::vector<std::string> texts;
    for (const SchemaJson& value : values) {
      if (value.is_string()) texts.push_back(value.get<std::string>());
    }
    if (!texts.empty()) limit(CharDfa::OneOf(texts), true);
  });
  return strings;
}

Rules::Expr SchemaCompiler::Quoted(const CharDfa& inside) {
  if (inside.empty()) return rules_.Nothing();
  return rules_.Sequence({rules_.Text("\""), inside.JsonString(rules_), rules_.Text("\"")});
}

Rules::Expr SchemaCompiler::WriteString(const Case& all) {
  const int64_t min = Least(all, "minLength"), max = Most(all, "maxLength");
  const std::optional<CharDfa> strings = StringsOf(all);
  if (!strings) return FreeString(min, max);
  return Quoted(strings->WithLength(min, max, rules_.budget()));
}

Rules::Expr SchemaCompiler::FreeString(int64_t min, int64_t max) {
  if (max < min) return rules_.Nothing();
  const auto [at, fresh] = strings_.try_emplace({min, max}, 0);
  if (!fresh) return rules_.Call(at->second);
  Rules& r = rules_;
  const Rules::Expr hex = r.Bytes({{'0', '9'}, {'A', 'F'}, {'a', 'f'}});
  const Rules::Expr other = r.Bytes({{'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}});
  const Rules::Expr d = r.Bytes({{'D', 'D'}, {'d', 'd'}});
  const Rules::Expr high = r.Bytes({{'8', '9'}, {'A', 'B'}, {'a', 'b'}}), low = r.Bytes({{'C', 'F'}, {'c', 'f'}});
  const Rules::Expr unit =
      r.Choice({r.Sequence({other, hex, hex, hex}), r.Sequence({d, r.Bytes({{'0', '7'}}), hex, hex}),
                r.Sequence({d, high, hex, hex, r.Text("\\u"), d, low, hex, hex})});
  const Rules::Expr escape = r.Choice(
      {r.Bytes({{'"', '"'}, {'\\', '\\'}, {'/', '/'}, {'b', 'b'}, {'f', 'f'}, {'n', 'n'}, {'r', 'r'}, {'t', 't'}}),
       r.Sequence({r.Text("u"), unit})});
  const CodeSet plain = Complement({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}, {0x7F, 0x7F}});
  const Rules::Expr one = r.Choice({r.CodePoints(plain), r.Sequence({r.Text("\\"), escape})});
  at->second = r.NewRule("string");
  r.Define(at->second, r.Sequence({r.Text("\""), r.Repeat(one, min, max), r.Text("\"")}));
  return r.Call(at->second);
}

CharDfa SchemaCompiler::NamesWithin(const SchemaJson& schema) {
  CompileBudget& budget = rules_.budget();
  if (const auto values = ListedBy({&schema})) {
    std::vector<std::string> texts;
    for (const SchemaJson& value : *values) {
      if (value.is_string() && IsValid(value, schema, document_, budget)) texts.push_back(value.get<std::string>());
    }
    return CharDfa::OneOf(texts);
  }
  const std::vector<Case> cases = CasesOf({&schema});
  if (cases.empty()) return CharDfa();
  if (cases.size() > 1) document_.Unsupported("propertyNames", "with alternatives");
  bool strings = true;  // other types may be listed beside
  for (const Entry& entry : cases[0]) {
    const std::vector<std::string> types = TypesOf(*entry.schema, document_);
    strings = strings && std::ranges::find(types, "string") != types.end();
  }
  if (!strings) return CharDfa();
  const std::optional<CharDfa> found = StringsOf(cases[0]);
  return found.value_or(CharDfa::Any()).WithLength(Least(cases[0], "minLength"), Most(cases[0], "maxLength"), budget);
}

}  // namespace cambium
