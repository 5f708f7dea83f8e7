// From schemas with alternatives, conditions and opposites to cases without.
#include <algorithm>

#include "cambium/error.h"
#include "grammar/json_schema_compiler.h"

namespace cambium {
namespace {

enum class Shape { kAny, kText, kList, kSchemas, kSchemaMap, kSchema, kNames, kNameMap, kBoolean };

// The keywords that are honoured or that say nothing about what is valid, and the shape of their values.
const std::map<std::string, Shape>& Keywords() {
  static const std::map<std::string, Shape> kKeywords = {
      {"$ref", Shape::kText},
      {"type", Shape::kAny},
      {"enum", Shape::kList},
      {"const", Shape::kAny},
      {"allOf", Shape::kSchemas},
      {"anyOf", Shape::kSchemas},
      {"oneOf", Shape::kSchemas},
      {"not", Shape::kSchema},
      {"if", Shape::kSchema},
      {"then", Shape::kSchema},
      {"else", Shape::kSchema},
      {"properties", Shape::kSchemaMap},
      {"patternProperties", Shape::kSchemaMap},
      {"additionalProperties", Shape::kSchema},
      {"unevaluatedProperties", Shape::kSchema},
      {"propertyNames", Shape::kSchema},
      {"required", Shape::kNames},
      {"dependentRequired", Shape::kNameMap},
      {"dependentSchemas", Shape::kSchemaMap},
      {"minProperties", Shape::kAny},
      {"maxProperties", Shape::kAny},
      {"prefixItems", Shape::kSchemas},
      {"items", Shape::kAny},
      {"additionalItems", Shape::kSchema},
      {"unevaluatedItems", Shape::kSchema},
      {"contains", Shape::kSchema},
      {"minContains", Shape::kAny},
      {"maxContains", Shape::kAny},
      {"minItems", Shape::kAny},
      {"maxItems", Shape::kAny},
      {"uniqueItems", Shape::kBoolean},
      {"minLength", Shape::kAny},
      {"maxLength", Shape::kAny},
      {"pattern", Shape::kText},
      {"format", Shape::kText},
      {"minimum", Shape::kAny},
      {"maximum", Shape::kAny},
      {"exclusiveMinimum", Shape::kAny},
      {"exclusiveMaximum", Shape::kAny},
      {"multipleOf", Shape::kAny},
      {kAbsent, Shape::kNames},
      {kNotEnum, Shape::kList},
      {kNotPattern, Shape::kText},
      {kFraction, Shape::kBoolean},
      {kProperty, Shape::kSchemaMap},
      // Notes for readers, and names.
      {"title", Shape::kAny},
      {"description", Shape::kAny},
      {"default", Shape::kAny},
      {"example", Shape::kAny},
      {"examples", Shape::kAny},
      {"$comment", Shape::kAny},
      {"deprecated", Shape::kAny},
      {"readOnly", Shape::kAny},
      {"writeOnly", Shape::kAny},
      {"contentMediaType", Shape::kAny},
      {"contentEncoding", Shape::kAny},
      {"contentSchema", Shape::kAny},
      {"discriminator", Shape::kAny},
      {"externalDocs", Shape::kAny},
      {"xml", Shape::kAny},
      {"markdownDescription", Shape::kAny},
      {"enumDescriptions", Shape::kAny},
      {"markdownEnumDescriptions", Shape::kAny},
      {"enumNames", Shape::kAny},
      {"deprecationMessage", Shape::kAny},
      {"errorMessage", Shape::kAny},
      {"patternErrorMessage", Shape::kAny},
      {"defaultSnippets", Shape::kAny},
      {"doNotSuggest", Shape::kAny},
      {"suggestSortText", Shape::kAny},
      {"tsType", Shape::kAny},
      {"$vocabulary", Shape::kAny},
      {"$schema", Shape::kAny},
      {"$id", Shape::kAny},
      {"id", Shape::kAny},
      {"$anchor", Shape::kAny},
      {"$dynamicAnchor", Shape::kAny},
      {"$defs", Shape::kAny},
      {"definitions", Shape::kAny},
  };
  return kKeywords;
}

bool IsSchema(const SchemaJson& value) { return value.is_object() || value.is_boolean(); }

const char* Expected(Shape shape, const SchemaJson& value) {
  const auto strings = [](const SchemaJson& list) {
    return list.is_array() && std::ranges::all_of(list, [](const SchemaJson& item) { return item.is_string(); });
  };
  switch (shape) {
    case Shape::kAny:
      return nullptr;
    case Shape::kText:
      return value.is_string() ? nullptr : "a string";
    case Shape::kList:
      return value.is_array() ? nullptr : "a list";
    case Shape::kSchemas:
      return value.is_array() && !value.empty() && std::ranges::all_of(value, IsSchema) ? nullptr : "a list of schemas";
    case Shape::kSchemaMap:
      return value.is_object() && std::ranges::all_of(value, IsSchema) ? nullptr : "an object of schemas";
    case Shape::kSchema:
      return IsSchema(value) ? nullptr : "a schema";
    case Shape::kNames:
      return strings(value) ? nullptr : "a list of names";
    case Shape::kNameMap:
      return value.is_object() && std::ranges::all_of(value, strings) ? nullptr : "an object of lists of names";
    case Shape::kBoolean:
      return value.is_boolean() ? nullptr : "true or false";
  }
  return nullptr;
}

}  // namespace

// kUsage naming a keyword that is not supported, or whose value is not as it should be.
void SchemaCompiler::RequireKnown(const SchemaJson& schema) {
  if (schema.is_boolean()) return;
  if (!schema.is_object()) {
    document_.Wrong("a schema is " + schema.dump().substr(0, 60) + ", expected an object or a boolean");
  }
  for (const auto& [keyword, value] : schema.items()) {
    const auto known = Keywords().find(keyword);
    if (known == Keywords().end()) {
      // Notes of one program's own have a prefix: x-kubernetes-..., jupyter.lab...., meta:enum.
      if (keyword.starts_with("x-") || keyword.find_first_of(".:") != keyword.npos) continue;
      document_.Unsupported(keyword);
    }
    if (const char* const expected = Expected(known->second, value); expected != nullptr) {
      document_.Wrong("\"" + keyword + "\" is " + value.dump().substr(0, 60) + ", expected " + expected);
    }
  }
  TypesOf(schema, document_);
}

std::vector<SchemaCompiler::Case> SchemaCompiler::CasesOf(const Schemas& schemas) {
  Case all;
  for (const SchemaJson* schema : schemas) Push(all, *schema, -1);
  std::vector<Case> cases;
  Expand(std::move(all), 0, cases);
  return cases;
}

void SchemaCompiler::Push(Case& all, const SchemaJson& schema, int32_t parent) {
  rules_.budget().Step(8 + std::ssize(all));
  if (schema == true) return;
  // What holds already need not be said again; it would be for ever where a schema refers to itself.
  for (int32_t above = parent; above >= 0; above = all[static_cast<size_t>(above)].parent) {
    rules_.budget().Step();
    if (all[static_cast<size_t>(above)].schema == &schema) return;
  }
  if (!unevaluated_ && std::ranges::any_of(all, [&](const Entry& e) { return e.schema == &schema; })) return;
  all.push_back({&schema, parent});
}

void SchemaCompiler::Expand(Case all, size_t next, std::vector<Case>& out) {
  for (; next < all.size(); ++next) {
    const SchemaJson& schema = *all[next].schema;
    const auto parent = static_cast<int32_t>(next);
    if (schema == false) return;
    RequireKnown(schema);
    if (const auto ref = schema.find("$ref"); ref != schema.end()) {
      Push(all, document_.Resolve(ref->get<std::string>()), parent);
    }
    if (const auto list = schema.find("allOf"); list != schema.end()) {
      for (const SchemaJson& part : *list) Push(all, part, parent);
    }
    for (const char* keyword : {"not", "if", "oneOf", "dependentRequired", "dependentSchemas"}) {
      if (!schema.contains(keyword)) continue;
      const size_t before = all.size();
      Push(all, Derived(schema, keyword), parent);
      if (all.size() > before) all.back().blind = std::string_view(keyword) == "not";
    }
    const auto any = schema.find("anyOf");
    if (any == schema.end()) continue;
    for (const SchemaJson& part : *any) {
      rules_.budget().Step(static_cast<int64_t>(all.size()));
      Case one = all;
      Push(one, part, parent);
      Expand(std::move(one), next + 1, out);
    }
    return;
  }
  if (out.size() >= kMostCases) {
    document_.Wrong("its alternatives together make more than " + std::to_string(kMostCases) + " cases: not supported");
  }
  out.push_back(std::move(all));
}

const SchemaJson& SchemaCompiler::Derived(const SchemaJson& schema, const char* keyword) {
  const SchemaJson*& known = derived_[{&schema, keyword}];
  if (known == nullptr) known = &document_.Keep(Derive(schema, keyword));
  return *known;
}

// The same as a keyword says, with anyOf, allOf and what derived schemas have.
SchemaJson SchemaCompiler::Derive(const SchemaJson& schema, const std::string& keyword) {
  const SchemaJson& value = schema[keyword];
  if (keyword == "not") {
    RequireKnown(value);
    return Negated(value, document_);
  }
  if (keyword == "oneOf") return DeriveOneOf(value);
  if (keyword == "if") {
    const bool then = schema.contains("then"), otherwise = schema.contains("else");
    if (!then && !otherwise) return true;
    SchemaJson yes = {{"allOf", SchemaJson::array({document_.RefTo(value)})}}, no = {{"allOf", SchemaJson::array()}};
    no["allOf"].push_back({{"not", document_.RefTo(value)}});
    if (then) yes["allOf"].push_back(document_.RefTo(schema["then"]));
    if (otherwise) no["allOf"].push_back(document_.RefTo(schema["else"]));
    return {{"anyOf", SchemaJson::array({yes, no})}};
  }
  // Each name is absent, or what depends on it holds.
  SchemaJson all = SchemaJson::array();
  for (const auto& [name, dependent] : value.items()) {
    const SchemaJson absent = {{kAbsent, SchemaJson::array({name})}};
    SchemaJson holds = {{"required", SchemaJson::array({name})}};
    if (keyword == "dependentRequired") {
      for (const SchemaJson& other : dependent) holds["required"].push_back(other);
    } else {
      holds["allOf"] = SchemaJson::array({document_.RefTo(dependent)});
    }
    all.push_back({{"anyOf", SchemaJson::array({absent, holds})}});
  }
  if (all.empty()) return true;
  return {{"allOf", all}};
}

// Each alternative, without the others where they may overlap.
SchemaJson SchemaCompiler::DeriveOneOf(const SchemaJson& list) {
  SchemaJson any = SchemaJson::array();
  for (const SchemaJson& one : list) RequireKnown(one);
  for (size_t i = 0; i < list.size(); ++i) {
    SchemaJson all = SchemaJson::array({document_.RefTo(list[i])});
    for (size_t j = 0; j < list.size(); ++j) {
      if (i == j || Disjoint(list[i], list[j], document_, rules_.budget())) continue;
      all.push_back({{"not", document_.RefTo(list[j])}});
    }
    any.push_back({{"allOf", all}});
  }
  return {{"anyOf", any}};
}

}  // namespace cambium
