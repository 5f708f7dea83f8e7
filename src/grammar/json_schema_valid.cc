// Whether a value is valid for a schema, and what follows from that.
#include <algorithm>
#include <cmath>

#include "grammar/json_schema_document.h"
#include "grammar/json_strings.h"
#include "io/unicode.h"

namespace cambium {
namespace {

constexpr int kDeepest = 200;

bool IsWhole(const SchemaJson& value) {
  return value.is_number_integer() ||
         (value.is_number_float() && value.get<double>() == std::floor(value.get<double>()));
}

bool IsMultiple(const SchemaJson& value, const SchemaJson& of) {
  if (value.is_number_integer() && of.is_number_integer() && !value.is_number_unsigned()) {
    return of.get<int64_t>() != 0 && value.get<int64_t>() % of.get<int64_t>() == 0;
  }
  const double divided = value.get<double>() / of.get<double>();
  return std::isfinite(divided) && std::abs(divided - std::round(divided)) < 1e-9;
}

// Checks one value against the keywords of one schema object.
class Validator {
 public:
  Validator(const SchemaJson& value, const SchemaJson& schema, SchemaDocument& document, CompileBudget& budget,
            int depth)
      : v_(value), s_(schema), document_(document), budget_(budget), depth_(depth) {}

  bool All() { return InPlace() && Here() && Dependents(); }
  bool Here() {
    return Plain() && (!v_.is_string() || Strings()) && (!v_.is_number() || Numbers()) &&
           (!v_.is_array() || Arrays()) && (!v_.is_object() || Objects());
  }

 private:
  const SchemaJson* Find(const char* keyword) const {
    const auto found = s_.find(keyword);
    return found == s_.end() ? nullptr : &*found;
  }
  bool Valid(const SchemaJson& value, const SchemaJson& schema) {
    return IsValid(value, schema, document_, budget_, depth_ + 1);
  }
  size_t CountValid(const SchemaJson& schemas) {
    return static_cast<size_t>(std::ranges::count_if(schemas, [&](const SchemaJson& s) { return Valid(v_, s); }));
  }

  bool InPlace() {
    if (const auto* ref = Find("$ref"); ref != nullptr && !Valid(v_, document_.Resolve(ref->get<std::string>()))) {
      return false;
    }
    if (const auto* all = Find("allOf"); all != nullptr && CountValid(*all) < all->size()) return false;
    if (const auto* any = Find("anyOf"); any != nullptr && CountValid(*any) == 0) return false;
    if (const auto* one = Find("oneOf"); one != nullptr && CountValid(*one) != 1) return false;
    if (const auto* no = Find("not"); no != nullptr && Valid(v_, *no)) return false;
    if (const auto* condition = Find("if"); condition != nullptr) {
      const auto* branch = Find(Valid(v_, *condition) ? "then" : "else");
      if (branch != nullptr && !Valid(v_, *branch)) return false;
    }
    return true;
  }

  bool Plain() {
    for (const char* keyword : {"unevaluatedProperties", "unevaluatedItems"}) {
      if (v_.is_structured() && Find(keyword) != nullptr) document_.Unsupported(keyword, "beside enum or const");
    }
    const std::vector<std::string> types = TypesOf(s_, document_);
    if (std::ranges::none_of(types, [&](const std::string& type) { return HasType(v_, type); })) return false;
    const auto holds = [&](const SchemaJson& list) {
      budget_.Step(std::ssize(list) / 64);  // so long a list is as many comparisons
      return std::ranges::any_of(list, [&](const SchemaJson& item) { return SameJson(v_, item); });
    };
    if (const auto* list = Find("enum"); list != nullptr && !holds(*list)) return false;
    if (const auto* list = Find(kNotEnum); list != nullptr && holds(*list)) return false;
    const auto* value = Find("const");
    return value == nullptr || SameJson(v_, *value);
  }

  bool Strings() {
    const auto& text = v_.get_ref<const std::string&>();
    const auto length = static_cast<int64_t>(CountCodePoints(text));
    if (length < document_.Count(s_, "minLength", 0)) return false;
    if (length > document_.Count(s_, "maxLength", Rules::kNoLimit)) return false;
    if (const auto* p = Find("pattern"); p != nullptr) {
      if (!document_.Pattern(p->get<std::string>(), budget_).Matches(text)) return false;
    }
    if (const auto* p = Find(kNotPattern); p != nullptr) {
      if (document_.Pattern(p->get<std::string>(), budget_).Matches(text)) return false;
    }
    const auto* format = Find("format");
    return format == nullptr || FormatOf(*format, document_, budget_).Matches(text);
  }

  bool Numbers() {
    const double value = v_.get<double>();
    const auto bound = [&](const char* keyword, auto good) {
      const auto* limit = Find(keyword);
      if (limit == nullptr) return true;
      if (!limit->is_number()) document_.Wrong(std::string("\"") + keyword + "\" is no number");
      return good(limit->get<double>());
    };
    if (!bound("minimum", [&](double b) { return value >= b; })) return false;
    if (!bound("maximum", [&](double b) { return value <= b; })) return false;
    if (!bound("exclusiveMinimum", [&](double b) { return value > b; })) return false;
    if (!bound("exclusiveMaximum", [&](double b) { return value < b; })) return false;
    if (Find(kFraction) != nullptr && IsWhole(v_)) return false;
    const auto* multiple = Find("multipleOf");
    return multiple == nullptr || !multiple->is_number() || IsMultiple(v_, *multiple);
  }

  bool Arrays() {
    const auto size = static_cast<int64_t>(v_.size());
    if (size < document_.Count(s_, "minItems", 0)) return false;
    if (size > document_.Count(s_, "maxItems", Rules::kNoLimit)) return false;
    size_t prefix = 0;
    if (const auto* items = Find("prefixItems"); items != nullptr) {
      prefix = std::min(items->size(), v_.size());
      for (size_t i = 0; i < prefix; ++i) {
        if (!Valid(v_[i], (*items)[i])) return false;
      }
    }
    if (const auto* items = Find("items"); items != nullptr) {
      for (size_t i = prefix; i < v_.size(); ++i) {
        if (!Valid(v_[i], *items)) return false;
      }
    }
    if (const auto* contains = Find("contains"); contains != nullptr) {
      const auto count = std::ranges::count_if(v_, [&](const SchemaJson& item) { return Valid(item, *contains); });
      if (count < document_.Count(s_, "minContains", 1)) return false;
      if (count > document_.Count(s_, "maxContains", Rules::kNoLimit)) return false;
    }
    const auto* unique = Find("uniqueItems");
    if (unique == nullptr || *unique != true) return true;
    for (size_t i = 0; i < v_.size(); ++i) {
      for (size_t j = 0; j < i; ++j) {
        if (SameJson(v_[i], v_[j])) return false;
      }
    }
    return true;
  }

  bool Objects() {
    const auto size = static_cast<int64_t>(v_.size());
    if (size < document_.Count(s_, "minProperties", 0)) return false;
    if (size > document_.Count(s_, "maxProperties", Rules::kNoLimit)) return false;
    const auto has = [&](const SchemaJson& name) { return Has(name); };
    if (const auto* names = Find("required"); names != nullptr && !std::ranges::all_of(*names, has)) return false;
    if (const auto* names = Find(kAbsent); names != nullptr && std::ranges::any_of(*names, has)) return false;
    const auto* properties = Find("properties");
    const auto* patterns = Find("patternProperties");
    const auto* additional = Find("additionalProperties");
    const auto* name_schema = Find("propertyNames");
    for (const auto& [name, value] : v_.items()) {
      bool declared = properties != nullptr && properties->contains(name);
      if (declared && !Valid(value, (*properties)[name])) return false;
      if (patterns != nullptr) {
        for (const auto& [pattern, schema] : patterns->items()) {
          if (!document_.Pattern(pattern, budget_).Matches(name)) continue;
          declared = true;
          if (!Valid(value, schema)) return false;
        }
      }
      if (const auto* own = Find(kProperty); own != nullptr && own->contains(name) && !Valid(value, (*own)[name])) {
        return false;
      }
      if (!declared && additional != nullptr && !Valid(value, *additional)) return false;
      if (name_schema != nullptr && !Valid(SchemaJson(name), *name_schema)) return false;
    }
    return true;
  }

  bool Has(const SchemaJson& name) const { return name.is_string() && v_.contains(name.get<std::string>()); }

  bool Dependents() {
    if (!v_.is_object()) return true;
    const auto has = [&](const SchemaJson& name) { return Has(name); };
    if (const auto* required = Find("dependentRequired"); required != nullptr) {
      for (const auto& [name, others] : required->items()) {
        if (v_.contains(name) && !std::ranges::all_of(others, has)) return false;
      }
    }
    if (const auto* schemas = Find("dependentSchemas"); schemas != nullptr) {
      for (const auto& [name, schema] : schemas->items()) {
        if (v_.contains(name) && !Valid(v_, schema)) return false;
      }
    }
    return true;
  }

  const SchemaJson& v_;
  const SchemaJson& s_;
  SchemaDocument& document_;
  CompileBudget& budget_;
  int depth_;
};

}  // namespace

bool SameJson(const SchemaJson& a, const SchemaJson& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_number_integer() && b.is_number_integer()) return a == b;
    return a.get<double>() == b.get<double>();
  }
  if (a.type() != b.type()) return false;
  if (a.is_array()) {
    return a.size() == b.size() && std::ranges::equal(a, b, SameJson);
  }
  if (!a.is_object()) return a == b;
  if (a.size() != b.size()) return false;
  for (const auto& [key, value] : a.items()) {
    const auto found = b.find(key);
    if (found == b.end() || !SameJson(value, *found)) return false;
  }
  return true;
}

bool HasType(const SchemaJson& value, const std::string& type) {
  if (type == "null") return value.is_null();
  if (type == "boolean") return value.is_boolean();
  if (type == "integer") return value.is_number() && IsWhole(value);
  if (type == "number") return value.is_number();
  if (type == "string") return value.is_string();
  if (type == "array") return value.is_array();
  return value.is_object();
}

std::vector<std::string> TypesOf(const SchemaJson& schema, const SchemaDocument& document) {
  static const std::vector<std::string> kAll = {"null", "boolean", "object", "array", "number", "string"};
  const auto found = schema.find("type");
  if (found == schema.end()) return kAll;
  std::vector<std::string> types;
  const auto add = [&](const SchemaJson& type) {
    const bool known =
        type.is_string() && (type == "integer" || std::ranges::find(kAll, type.get<std::string>()) != kAll.end());
    if (!known) document.Wrong("\"type\" is " + type.dump().substr(0, 60) + ", which is no type of JSON Schema");
    types.push_back(type.get<std::string>());
  };
  if (found->is_array()) {
    for (const SchemaJson& type : *found) add(type);
    if (types.empty()) document.Wrong("\"type\" is an empty list");
  } else {
    add(*found);
  }
  return types;
}

bool IsValid(const SchemaJson& value, const SchemaJson& schema, SchemaDocument& document, CompileBudget& budget,
             int depth) {
  budget.Step();
  if (depth > kDeepest) document.Wrong("a value of enum or const cannot be judged: references lead too deep");
  if (schema.is_boolean()) return schema.get<bool>();
  if (!schema.is_object())
    document.Wrong("a schema is " + schema.dump().substr(0, 60) + ", expected an object or a boolean");
  return Validator(value, schema, document, budget, depth).All();
}

bool IsValidHere(const SchemaJson& value, const SchemaJson& schema, SchemaDocument& document, CompileBudget& budget) {
  budget.Step();
  return Validator(value, schema, document, budget, 0).Here();
}

}  // namespace cambium
