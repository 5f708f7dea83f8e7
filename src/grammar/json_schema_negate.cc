// The opposite of a schema, and whether two of them exclude each other.
#include <algorithm>

#include "grammar/json_schema_document.h"

namespace cambium {
namespace {

bool IsAnnotation(const std::string& keyword) {
  static const std::vector<std::string> kAnnotations = {"title",
                                                        "description",
                                                        "default",
                                                        "examples",
                                                        "example",
                                                        "$comment",
                                                        "deprecated",
                                                        "readOnly",
                                                        "writeOnly",
                                                        "$schema",
                                                        "$id",
                                                        "$anchor",
                                                        "$defs",
                                                        "definitions",
                                                        "discriminator",
                                                        "$dynamicAnchor",
                                                        "contentMediaType",
                                                        "contentEncoding",
                                                        "contentSchema",
                                                        "minContains",
                                                        "maxContains",
                                                        "then",
                                                        "else"};
  return std::ranges::find(kAnnotations, keyword) != kAnnotations.end() || keyword.compare(0, 2, "x-") == 0;
}

SchemaJson Typed(const char* type, const char* keyword, SchemaJson value) { return {{"type", type}, {keyword, value}}; }

// The values that one keyword refuses.
class Opposite {
 public:
  Opposite(const SchemaJson& schema, SchemaDocument& document, int depth)
      : s_(schema), document_(document), depth_(depth) {}

  SchemaJson All() {
    for (const auto& [keyword, value] : s_.items()) {
      if (!IsAnnotation(keyword)) One(keyword, value);
    }
    if (s_.contains("if")) Condition();
    if (any_.empty()) return false;
    if (any_.size() == 1) return any_[0];
    return {{"anyOf", any_}};
  }

 private:
  void Add(SchemaJson schema) { any_.push_back(std::move(schema)); }
  SchemaJson Not(const SchemaJson& schema) { return {{"not", document_.RefTo(schema)}}; }

  void One(const std::string& keyword, const SchemaJson& value) {
    if (keyword == "$ref") return Add(Negated(document_.Resolve(value.get<std::string>()), document_, depth_ + 1));
    if (keyword == "type") return Types();
    if (keyword == "const") return Add({{kNotEnum, SchemaJson::array({value})}});
    if (keyword == "enum") return Add({{kNotEnum, value}});
    if (keyword == kNotEnum) return Add({{"enum", value}});
    if (keyword == "not") return Add(document_.RefTo(value));
    if (keyword == "if") return;
    if (keyword == "minLength" || keyword == "maxLength") return Bounds(keyword, "string", "minLength", "maxLength");
    if (keyword == "minItems" || keyword == "maxItems") return Bounds(keyword, "array", "minItems", "maxItems");
    if (keyword == "minProperties" || keyword == "maxProperties") {
      return Bounds(keyword, "object", "minProperties", "maxProperties");
    }
    if (keyword == "pattern") return Add(Typed("string", kNotPattern, value));
    if (keyword == kFraction) return Add({{"type", "integer"}});
    if (keyword == kNotPattern) return Add(Typed("string", "pattern", value));
    if (keyword == "minimum") return Add(Typed("number", "exclusiveMaximum", value));
    if (keyword == "maximum") return Add(Typed("number", "exclusiveMinimum", value));
    if (keyword == "exclusiveMinimum") return Add(Typed("number", "maximum", value));
    if (keyword == "exclusiveMaximum") return Add(Typed("number", "minimum", value));
    if (keyword == "required")
      return Each(value, [&](const SchemaJson& n) { Add(Typed("object", kAbsent, SchemaJson::array({n}))); });
    if (keyword == kAbsent)
      return Each(value, [&](const SchemaJson& n) { Add(Typed("object", "required", SchemaJson::array({n}))); });
    if (keyword == "anyOf") return Add({{"allOf", Nots(value)}});
    if (keyword == "allOf") return Each(value, [&](const SchemaJson& schema) { Add(Not(schema)); });
    if (keyword == "oneOf") return OneOf(value);
    if (keyword == "properties") return Properties(value);
    if (keyword == "contains" && !s_.contains("minContains") && !s_.contains("maxContains")) {
      return Add(Typed("array", "items", Not(value)));
    }
    if (keyword == "items" && !s_.contains("prefixItems")) return Add(Typed("array", "contains", Not(value)));
    document_.Unsupported(keyword, "under \"not\", \"if\" or a \"oneOf\" whose alternatives may overlap");
  }

  template <class Use>
  void Each(const SchemaJson& list, const Use& use) {
    for (const SchemaJson& item : list) use(item);
  }
  SchemaJson Nots(const SchemaJson& list) {
    SchemaJson nots = SchemaJson::array();
    for (const SchemaJson& item : list) nots.push_back(Not(item));
    return nots;
  }

  void Types() {
    std::vector<std::string> types = TypesOf(s_, document_);
    SchemaJson others = SchemaJson::array();
    const bool integers = std::ranges::find(types, "integer") != types.end();
    for (const char* type : {"null", "boolean", "object", "array", "number", "string"}) {
      if (std::ranges::find(types, type) != types.end()) continue;
      if (integers && std::string(type) == "number") {
        Add(Typed("number", kFraction, true));
        continue;
      }
      others.push_back(type);
    }
    if (!others.empty()) Add({{"type", others}});
  }

  void Bounds(const std::string& keyword, const char* type, const char* least, const char* most) {
    const int64_t bound = document_.Count(s_, keyword.c_str(), 0);
    if (keyword == most) return Add(Typed(type, least, bound + 1));
    if (bound > 0) Add(Typed(type, most, bound - 1));
  }

  void Properties(const SchemaJson& value) {
    for (const auto& [name, schema] : value.items()) {
      if (schema == true || (schema.is_object() && schema.empty())) continue;
      SchemaJson one = {{"type", "object"}, {"required", SchemaJson::array({name})}};
      one[kProperty] = SchemaJson::object();
      one[kProperty][name] = Not(schema);
      Add(std::move(one));
    }
  }

  // None, or two of them.
  void OneOf(const SchemaJson& value) {
    Add({{"allOf", Nots(value)}});
    for (size_t i = 0; i < value.size(); ++i) {
      for (size_t j = 0; j < i; ++j)
        Add({{"allOf", SchemaJson::array({document_.RefTo(value[i]), document_.RefTo(value[j])})}});
    }
  }

  void Condition() {
    const SchemaJson& condition = s_["if"];
    if (s_.contains("then")) Add({{"allOf", SchemaJson::array({document_.RefTo(condition), Not(s_["then"])})}});
    if (s_.contains("else")) Add({{"allOf", SchemaJson::array({Not(condition), Not(s_["else"])})}});
  }

  const SchemaJson& s_;
  SchemaDocument& document_;
  int depth_;
  SchemaJson any_ = SchemaJson::array();
};

const SchemaJson* Listed(const SchemaJson& schema, SchemaJson& one) {
  if (const auto found = schema.find("enum"); found != schema.end()) return &*found;
  const auto found = schema.find("const");
  if (found == schema.end()) return nullptr;
  one = SchemaJson::array({*found});
  return &one;
}

bool ShareNoType(const SchemaJson& a, const SchemaJson& b, const SchemaDocument& document) {
  const std::vector<std::string> left = TypesOf(a, document), right = TypesOf(b, document);
  const auto number = [](const std::string& type) { return type == "integer" ? "number" : type; };
  return std::ranges::none_of(left, [&](const std::string& type) {
    return std::ranges::any_of(right, [&](const std::string& other) { return number(type) == number(other); });
  });
}

bool OnlyObjects(const SchemaJson& schema, const SchemaDocument& document) {
  return TypesOf(schema, document) == std::vector<std::string>{"object"};
}

bool Requires(const SchemaJson& schema, const std::string& name) {
  const auto required = schema.find("required");
  return required != schema.end() && std::ranges::find(*required, SchemaJson(name)) != required->end();
}

}  // namespace

SchemaJson Negated(const SchemaJson& schema, SchemaDocument& document, int depth) {
  constexpr int kDeepest = 50;
  if (depth > kDeepest) document.Wrong("references under \"not\", \"if\" or \"oneOf\" lead too deep");
  if (schema.is_boolean()) return !schema.get<bool>();
  if (!schema.is_object())
    document.Wrong("a schema is " + schema.dump().substr(0, 60) + ", expected an object or a boolean");
  return Opposite(schema, document, depth).All();
}

bool Disjoint(const SchemaJson& a, const SchemaJson& b, SchemaDocument& document, CompileBudget& budget, int depth) {
  budget.Step();
  if (a == false || b == false) return true;
  if (!a.is_object() || !b.is_object() || depth > 8) return false;
  for (const bool swapped : {false, true}) {
    const SchemaJson* const x = swapped ? &b : &a;
    const SchemaJson* const y = swapped ? &a : &b;
    if (const auto ref = x->find("$ref"); ref != x->end() && ref->is_string()) {
      if (Disjoint(document.Resolve(ref->get<std::string>()), *y, document, budget, depth + 1)) return true;
    }
    if (const auto all = x->find("allOf"); all != x->end()) {
      for (const SchemaJson& part : *all) {
        if (Disjoint(part, *y, document, budget, depth + 1)) return true;
      }
    }
    if (const auto any = x->find("anyOf"); any != x->end() && !any->empty()) {
      const auto apart = [&](const SchemaJson& part) { return Disjoint(part, *y, document, budget, depth + 1); };
      if (std::ranges::all_of(*any, apart)) return true;
    }
    SchemaJson one;
    if (const SchemaJson* const listed = Listed(*x, one); listed != nullptr) {
      const auto invalid = [&](const SchemaJson& value) { return !IsValid(value, *y, document, budget); };
      if (std::ranges::all_of(*listed, invalid)) return true;
    }
  }
  if (ShareNoType(a, b, document)) return true;
  if (!OnlyObjects(a, document) || !OnlyObjects(b, document)) return false;
  // A property that both have, or that one must have and the other refuses.
  const auto properties = a.find("properties"), others = b.find("properties");
  if (properties == a.end() || others == b.end()) return false;
  for (const auto& [name, schema] : properties->items()) {
    const auto other = others->find(name);
    if (other == others->end() || (!Requires(a, name) && !Requires(b, name))) continue;
    if (!Requires(a, name) || !Requires(b, name)) continue;
    if (Disjoint(schema, *other, document, budget, depth + 1)) return true;
  }
  // A name that one requires where the other is closed.
  for (const auto& [x, y] : {std::pair(&a, &b), std::pair(&b, &a)}) {
    const auto closed = y->find("additionalProperties");
    if (closed == y->end() || *closed != false || y->contains("patternProperties") || !x->contains("required"))
      continue;
    for (const SchemaJson& name : (*x)["required"]) {
      if (name.is_string() && !(*y)["properties"].contains(name.get<std::string>())) return true;
    }
  }
  return false;
}

}  // namespace cambium
