#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "grammar/json_schema.h"
#include "grammar/json_schema_document.h"

namespace cambium {

// Writes the rules of a schema. A rule stands for the values that are valid for all schemas of a list; references are
// rules that call rules, so recursion costs nothing.
class SchemaCompiler {
 public:
  using Schemas = std::vector<const SchemaJson*>;

  SchemaCompiler(SchemaDocument& document, JsonStyle style, Rules& rules)
      : document_(document), style_(style), rules_(rules) {}
  Rules::Expr Compile();

 private:
  static constexpr size_t kMostCases = 2'000;
  static constexpr size_t kMostPatterns = 6;

  // Schemas that all hold, without alternatives among them: each with the entry that led to it.
  struct Entry {
    const SchemaJson* schema;
    int32_t parent;      // -1: none
    bool blind = false;  // of `not`: what it evaluates does not count
  };
  using Case = std::vector<Entry>;

  Rules::Expr ValueOf(Schemas schemas);
  Rules::Expr Write(const Schemas& schemas);
  std::optional<SchemaJson> ListedBy(Schemas schemas) const;
  template <class Valid>
  Rules::Expr WriteListed(const SchemaJson& values, const Valid& valid);

  // json_schema_cases.cc
  std::vector<Case> CasesOf(const Schemas& schemas);
  void Expand(Case all, size_t next, std::vector<Case>& out);
  void Push(Case& all, const SchemaJson& schema, int32_t parent);
  void RequireKnown(const SchemaJson& schema);
  const SchemaJson& Derived(const SchemaJson& schema, const char* keyword);
  SchemaJson Derive(const SchemaJson& schema, const std::string& keyword);
  SchemaJson DeriveOneOf(const SchemaJson& list);

  Rules::Expr WriteCase(const Case& all);
  std::set<std::string> TypesOfCase(const Case& all) const;
  template <class Use>
  void Each(const Case& all, const char* keyword, const Use& use) const {
    for (const Entry& entry : all) {
      const auto found = entry.schema->find(keyword);
      if (found != entry.schema->end()) use(*found);
    }
  }
  int64_t Most(const Case& all, const char* keyword) const;   // the least upper bound
  int64_t Least(const Case& all, const char* keyword) const;  // the greatest lower bound

  Rules::Expr WriteNumber(const Case& all, bool whole);
  Rules::Expr WriteString(const Case& all);
  Rules::Expr FreeString(int64_t min, int64_t max);
  Rules::Expr Quoted(const CharDfa& inside);
  // The strings of a case; none: all between the lengths.
  std::optional<CharDfa> StringsOf(const Case& all);
  CharDfa NamesWithin(const SchemaJson& schema);  // propertyNames

  // json_schema_array.cc, json_schema_object.cc
  Rules::Expr WriteArray(const Case& all);
  struct Extent;  // of an array
  std::optional<Rules::Expr> WriteUnique(const Case& all, const Extent& extent);
  Rules::Expr WriteSubsets(const std::vector<SchemaJson>& values, const Extent& extent);
  Rules::Expr WriteTuples(const std::vector<std::vector<SchemaJson>>& values, const Extent& extent);
  std::optional<std::vector<SchemaJson>> FiniteValues(const Schemas& schemas);
  std::optional<Schemas> ItemAt(const Case& all, size_t index);
  Rules::Expr WriteObject(const Case& all);
  struct Names;  // json_schema_object.cc
  Rules::Expr ChainOf(const Names& names, Rules::Expr additional);
  Rules::Expr AdditionalPair(const Case& all, const std::vector<std::string>& names);
  template <class Declares, class Matches>
  std::optional<Schemas> ValuesOf(const Case& all, const Declares& declares, const Matches& matches);
  std::optional<Schemas> ValuesOf(const Case& all, const std::string& name);
  bool Within(const Case& all, size_t entry, size_t root) const;  // entry is root or was led to by it

  SchemaDocument& document_;
  JsonStyle style_;
  Rules& rules_;
  bool unevaluated_ = false;  // whether some schema asks what others have evaluated
  std::map<Schemas, Rules::Rule> known_;
  std::vector<std::pair<Rules::Rule, Schemas>> open_;
  std::map<std::pair<const SchemaJson*, std::string>, const SchemaJson*> derived_;
  std::map<std::pair<int64_t, int64_t>, Rules::Rule> strings_;
};

}  // namespace cambium
