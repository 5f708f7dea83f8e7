// Objects of a schema.
#include <algorithm>
#include <unordered_set>

#include "cambium/error.h"
#include "grammar/json_schema_compiler.h"

namespace cambium {

// The names that an object may have by declaration, in their order.
struct SchemaCompiler::Names {
  struct Name {
    std::string name;
    bool required;
    Rules::Expr value;
  };
  std::vector<Name> list;
  int64_t min = 0, max = Rules::kNoLimit;  // of pairs
};

bool SchemaCompiler::Within(const Case& all, size_t entry, size_t root) const {
  for (auto at = static_cast<int32_t>(entry); at >= 0; at = all[static_cast<size_t>(at)].parent) {
    if (static_cast<size_t>(at) == root) return true;
    if (all[static_cast<size_t>(at)].blind) return false;
  }
  return false;
}

// The schemas of the value of a name, of which declares(entry) tells the schema that an entry gives it (null: none),
// and matches(pattern) whether it matches a pattern. None where the name is not allowed.
template <class Declares, class Matches>
std::optional<SchemaCompiler::Schemas> SchemaCompiler::ValuesOf(const Case& all, const Declares& declares,
                                                                const Matches& matches) {
  Schemas schemas;
  std::vector<bool> evaluates(all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    const SchemaJson& schema = *all[i].schema;
    rules_.budget().Step();
    if (const SchemaJson* const own = declares(schema, "properties"); own != nullptr) {
      schemas.push_back(own);
      evaluates[i] = true;
    }
    if (const SchemaJson* const own = declares(schema, kProperty); own != nullptr) schemas.push_back(own);
    if (const auto patterns = schema.find("patternProperties"); patterns != schema.end()) {
      for (const auto& [pattern, value] : patterns->items()) {
        if (!matches(pattern)) continue;
        schemas.push_back(&value);
        evaluates[i] = true;
      }
    }
    const auto additional = schema.find("additionalProperties");
    if (evaluates[i] || additional == schema.end()) continue;
    schemas.push_back(&*additional);
    evaluates[i] = true;
  }
  for (size_t i = 0; i < all.size(); ++i) {
    const auto unevaluated = all[i].schema->find("unevaluatedProperties");
    if (unevaluated == all[i].schema->end()) continue;
    bool evaluated = false;
    for (size_t j = 0; j < all.size(); ++j) evaluated = evaluated || (evaluates[j] && Within(all, j, i));
    if (!evaluated) schemas.push_back(&*unevaluated);
  }
  if (std::ranges::any_of(schemas, [](const SchemaJson* s) { return *s == false; })) return std::nullopt;
  return schemas;
}

std::optional<SchemaCompiler::Schemas> SchemaCompiler::ValuesOf(const Case& all, const std::string& name) {
  for (const Entry& entry : all) {
    const auto absent = entry.schema->find(kAbsent);
    if (absent != entry.schema->end() && std::ranges::find(*absent, SchemaJson(name)) != absent->end()) {
      return std::nullopt;
    }
    const auto within = entry.schema->find("propertyNames");
    if (within != entry.schema->end() && !IsValid(name, *within, document_, rules_.budget())) return std::nullopt;
  }
  return ValuesOf(
      all,
      [&](const SchemaJson& schema, const char* keyword) -> const SchemaJson* {
        const auto properties = schema.find(keyword);
        if (properties == schema.end()) return nullptr;
        rules_.budget().Step(static_cast<int64_t>(properties->size()) / 8);  // it is searched from its beginning
        const auto found = properties->find(name);
        return found == properties->end() ? nullptr : &*found;
      },
      [&](const std::string& pattern) { return document_.Pattern(pattern, rules_.budget()).Matches(name); });
}

Rules::Expr SchemaCompiler::WriteObject(const Case& all) {
  Names names;
  names.min = Least(all, "minProperties");
  names.max = Most(all, "maxProperties");
  std::unordered_set<std::string> required, seen;
  std::vector<std::string> order;
  const auto add = [&](const std::string& name) {
    if (seen.insert(name).second) order.push_back(name);
  };
  bool declared = false, open = false;
  for (const Entry& entry : all) {
    for (const char* keyword : {"additionalProperties", "unevaluatedProperties", "patternProperties"}) {
      open = open || entry.schema->contains(keyword);
    }
    declared = declared || entry.schema->contains("properties");
  }
  Each(all, "properties", [&](const SchemaJson& properties) {
    for (const auto& [name, schema] : properties.items()) add(name);
  });
  Each(all, "required", [&](const SchemaJson& list) {
    for (const SchemaJson& name : list) {
      required.insert(name.get<std::string>());
      add(name.get<std::string>());
    }
  });
  Each(all, kProperty, [&](const SchemaJson& properties) {
    for (const auto& [name, schema] : properties.items()) add(name);
  });
  Each(all, kAbsent, [&](const SchemaJson& list) {
    for (const SchemaJson& name : list) add(name.get<std::string>());
  });
  for (const std::string& name : order) {
    const std::optional<Schemas> schemas = ValuesOf(all, name);
    names.list.push_back({name, required.contains(name), schemas ? ValueOf(*schemas) : rules_.Nothing()});
  }
  const bool closed = declared && !open;
  return ChainOf(names, closed ? rules_.Nothing() : AdditionalPair(all, order));
}

// A pair whose name is none of `names`.
Rules::Expr SchemaCompiler::AdditionalPair(const Case& all, const std::vector<std::string>& names) {
  CompileBudget& budget = rules_.budget();
  std::vector<std::string> patterns;
  Each(all, "patternProperties", [&](const SchemaJson& own) {
    for (const auto& [pattern, schema] : own.items()) {
      if (std::ranges::find(patterns, pattern) == patterns.end()) patterns.push_back(pattern);
    }
  });
  if (patterns.size() > kMostPatterns) {
    document_.Unsupported("patternProperties", "with more than " + std::to_string(kMostPatterns) + " patterns");
  }
  std::optional<CharDfa> others;
  Each(all, "propertyNames",
       [&](const SchemaJson& schema) { others = others.value_or(CharDfa::Any()).And(NamesWithin(schema), budget); });
  if (!names.empty()) others = others.value_or(CharDfa::Any()).Without(CharDfa::OneOf(names), budget);
  if (!patterns.empty() && !others) others = CharDfa::Any();
  std::vector<Rules::Expr> pairs;
  for (size_t chosen = 0; chosen < size_t{1} << patterns.size(); ++chosen) {  // those that match, bit by bit
    std::optional<CharDfa> within = others;
    for (size_t i = 0; i < patterns.size(); ++i) {
      const CharDfa& pattern = document_.Pattern(patterns[i], budget);
      within = (chosen >> i & 1) != 0 ? within->And(pattern, budget) : within->Without(pattern, budget);
    }
    if (within && within->empty()) continue;
    const auto matches = [&](const std::string& pattern) {
      const auto index = std::ranges::find(patterns, pattern) - patterns.begin();
      return (chosen >> index & 1) != 0;
    };
    const auto none = [](const SchemaJson&, const char*) -> const SchemaJson* { return nullptr; };
    const std::optional<Schemas> schemas = ValuesOf(all, none, matches);
    if (!schemas) continue;
    const Rules::Expr key = within ? Quoted(*within) : FreeString(0, Rules::kNoLimit);
    pairs.push_back(rules_.Sequence({key, rules_.Text(style_.colon()), ValueOf(*schemas)}));
  }
  return rules_.Choice(std::move(pairs));
}

// Braces around the pairs, in the order of their names, then additional ones. Where the number of pairs matters, states
// count it; names of additional pairs may repeat, so that together they count as one for the minimum.
Rules::Expr SchemaCompiler::ChainOf(const Names& names, Rules::Expr additional) {
  Rules& r = rules_;
  const auto count = std::ssize(names.list);
  const auto musts = std::ranges::count_if(names.list, &Names::Name::required);
  const bool limited = names.max != Rules::kNoLimit && (additional != r.Nothing() || names.max < count);
  if (additional != r.Nothing() && names.min > count + 1) {
    document_.Unsupported("minProperties", "beyond the declared properties and one more");
  }
  int64_t most = 1;  // count to tell apart; beyond it they are the same
  if (names.min > musts) most = std::max(most, names.min);
  if (limited) most = std::max(most, names.max);
  most = std::min(most, count + 1);
  const auto state = [&](int64_t index, int64_t pairs) {
    return static_cast<int32_t>(index * (most + 1) + std::min(pairs, most));
  };
  const int32_t end = state(count, most) + 1;
  const Rules::Expr comma = r.Text(style_.comma());
  std::vector<Rules::Edge> edges;
  for (int64_t i = 0; i < count; ++i) {
    const Names::Name& name = names.list[static_cast<size_t>(i)];
    const Rules::Expr pair = name.value == r.Nothing()
                                 ? name.value
                                 : r.Sequence({r.Text(SchemaJson(name.name).dump() + style_.colon()), name.value});
    const Rules::Expr later = r.Sequence({comma, pair});
    for (int64_t pairs = 0; pairs <= std::min(i, most); ++pairs) {
      if (!limited || pairs < names.max) {
        edges.push_back({state(i, pairs), state(i + 1, pairs + 1), pairs > 0 ? later : pair});
      }
      if (!name.required) edges.push_back({state(i, pairs), state(i + 1, pairs), r.Empty()});
    }
  }
  for (int64_t pairs = 0; pairs <= std::min(count, most); ++pairs) {
    const bool fits = !limited || pairs <= names.max;
    if (fits && pairs >= std::min(names.min, most)) edges.push_back({state(count, pairs), end, r.Empty()});
    if (additional == r.Nothing() || pairs + 1 < std::min(names.min, most) || (limited && pairs >= names.max)) continue;
    const int64_t more = limited ? names.max - pairs - 1 : Rules::kNoLimit;
    edges.push_back(
        {state(count, pairs), end,
         r.Sequence({pairs > 0 ? comma : r.Empty(), additional, r.Repeat(r.Sequence({comma, additional}), 0, more)})});
  }
  return r.Sequence({r.Text("{"), r.Graph(end + 1, std::move(edges), {end}), r.Text("}")});
}

}  // namespace cambium
