#pragma once

#include <deque>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "grammar/char_dfa.h"

namespace cambium {

using SchemaJson = nlohmann::ordered_json;

// A schema with its references resolved to absolute ones, and schemas that were derived from it.
class SchemaDocument {
 public:
  // `what` names the field in errors.
  SchemaDocument(SchemaJson schema, std::string what);

  const SchemaJson& root() const { return root_; }
  const std::string& what() const { return what_; }
  // What an absolute reference names; kUsage where that is not in the document.
  const SchemaJson& Resolve(const std::string& reference) const;
  // A schema {"$ref"} of a node of the document, and a derived schema that lives as long as the document.
  SchemaJson RefTo(const SchemaJson& node);
  const SchemaJson& Keep(SchemaJson derived) { return derived_.emplace_back(std::move(derived)); }

  // "what: why".
  [[noreturn]] void Wrong(const std::string& why) const;
  [[noreturn]] void Unsupported(const std::string& keyword, const std::string& why = "") const;

  // The values of keywords, of the type that they must have.
  int64_t Count(const SchemaJson& schema, const char* keyword, int64_t fallback) const;
  const CharDfa& Pattern(const std::string& pattern, CompileBudget& budget);

 private:
  static constexpr const char* kNodeScheme = "cambium-node:";
  static std::string UriOf(const SchemaJson& node, const std::string& base);
  void CountAnchors(const SchemaJson& node, const std::string& base);
  std::string DynamicTarget(const std::string& own, const std::string& reference) const;
  void Index(SchemaJson& node, const std::string& base, bool schema);

  SchemaJson root_;
  std::string what_;
  std::string root_uri_;
  std::unordered_map<std::string, const SchemaJson*> resources_, anchors_;
  std::unordered_map<std::string, int> dynamic_anchors_;  // how many there are of a name
  std::unordered_set<std::string> dynamic_places_;        // their absolute references
  std::deque<SchemaJson> derived_;
  std::vector<const SchemaJson*> nodes_;
  std::unordered_map<const SchemaJson*, size_t> node_numbers_;
  std::unordered_map<std::string, CharDfa> patterns_;
};

// Keywords that only derived schemas have.
inline constexpr const char* kAbsent =
    "\x01"
    "absent";  // names that an object does not have
inline constexpr const char* kNotPattern =
    "\x01"
    "notPattern";  // a regular expression that a string does not match
inline constexpr const char* kNotEnum =
    "\x01"
    "notEnum";  // values that are not allowed
inline constexpr const char* kFraction =
    "\x01"
    "fraction";  // true: a number is not whole
inline constexpr const char* kProperty =
    "\x01"
    "property";  // as `properties`, without declaring them

// Whether the value is valid for the schema: for values that a schema lists. kUsage for a keyword that is not
// supported.
bool IsValid(const SchemaJson& value, const SchemaJson& schema, SchemaDocument& document, CompileBudget& budget,
             int depth = 0);
// The same of the keywords of `schema` itself, without those that refer to other schemas of the same value.
bool IsValidHere(const SchemaJson& value, const SchemaJson& schema, SchemaDocument& document, CompileBudget& budget);
// Whether two JSON values are equal as JSON Schema means it: 1 is 1.0.
bool SameJson(const SchemaJson& a, const SchemaJson& b);
// Whether a value is of a type of JSON Schema.
bool HasType(const SchemaJson& value, const std::string& type);
// The types that a schema's `type` lists; all six without one. kUsage for what is no type.
std::vector<std::string> TypesOf(const SchemaJson& schema, const SchemaDocument& document);

// A schema that is valid for what `schema` is not valid for; kUsage naming the keyword where that cannot be said.
SchemaJson Negated(const SchemaJson& schema, SchemaDocument& document, int depth = 0);
// Whether no value is valid for both, as far as can be shown.
bool Disjoint(const SchemaJson& a, const SchemaJson& b, SchemaDocument& document, CompileBudget& budget, int depth = 0);

}  // namespace cambium
