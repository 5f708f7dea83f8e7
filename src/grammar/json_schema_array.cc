// Arrays of a schema.
#include <algorithm>

#include "cambium/error.h"
#include "grammar/json_schema_compiler.h"

namespace cambium {
namespace {

// Items at the beginning that have schemas of their own; drafts before 2020-12 wrote them as a list `items`.
const SchemaJson* PrefixOf(const SchemaJson& schema) {
  if (const auto found = schema.find("prefixItems"); found != schema.end()) return &*found;
  const auto items = schema.find("items");
  return items != schema.end() && items->is_array() ? &*items : nullptr;
}

// The schema of the items behind them; null: none.
const SchemaJson* RestOf(const SchemaJson& schema) {
  const auto items = schema.find("items");
  if (items == schema.end()) return nullptr;
  if (!items->is_array()) return &*items;
  const auto rest = schema.find("additionalItems");
  return rest == schema.end() ? nullptr : &*rest;
}

}  // namespace

// The schemas of the item at `index`, those of `contains` not counted; none where one of them is false.
std::optional<SchemaCompiler::Schemas> SchemaCompiler::ItemAt(const Case& all, size_t index) {
  Schemas schemas;
  const auto add = [&](const SchemaJson& schema) { schemas.push_back(&schema); };
  std::vector<bool> evaluates(all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    const SchemaJson* const prefix = PrefixOf(*all[i].schema);
    const SchemaJson* const rest = RestOf(*all[i].schema);
    if (prefix != nullptr && index < prefix->size()) {
      add((*prefix)[index]);
      evaluates[i] = true;
    } else if (rest != nullptr) {
      add(*rest);
      evaluates[i] = true;
    }
  }
  for (size_t i = 0; i < all.size(); ++i) {
    const auto unevaluated = all[i].schema->find("unevaluatedItems");
    if (unevaluated == all[i].schema->end()) continue;
    bool evaluated = false;
    for (size_t j = 0; j < all.size(); ++j) evaluated = evaluated || (evaluates[j] && Within(all, j, i));
    if (!evaluated) add(*unevaluated);
  }
  if (std::ranges::any_of(schemas, [](const SchemaJson* s) { return *s == false; })) return std::nullopt;
  return schemas;
}

struct SchemaCompiler::Extent {
  int64_t min, max;
  size_t prefix;  // items with schemas of their own
};

// The values of schemas that have few: those that are listed, null and booleans. None where there may be others.
std::optional<std::vector<SchemaJson>> SchemaCompiler::FiniteValues(const Schemas& schemas) {
  std::optional<SchemaJson> listed = ListedBy(schemas);
  if (!listed) {
    for (const Case& one : CasesOf(schemas)) {
      for (const std::string& type : TypesOfCase(one)) {
        if (type != "null" && type != "boolean") return std::nullopt;
      }
    }
    listed = SchemaJson::array({nullptr, true, false});
  }
  std::vector<SchemaJson> values;
  for (const SchemaJson& value : *listed) {
    const auto same = [&](const SchemaJson& other) { return SameJson(value, other); };
    const bool valid = std::ranges::all_of(
        schemas, [&](const SchemaJson* s) { return IsValid(value, *s, document_, rules_.budget()); });
    rules_.budget().Step(std::ssize(values));
    if (valid && std::ranges::none_of(values, same)) values.push_back(value);
  }
  return values;
}

// Some of the values, each at most once, in their order.
Rules::Expr SchemaCompiler::WriteSubsets(const std::vector<SchemaJson>& values, const Extent& extent) {
  Rules& r = rules_;
  const auto count = std::ssize(values);
  const bool limited = extent.max < count;
  const int64_t most = std::min(count, limited ? extent.max : std::max<int64_t>(extent.min, 1));  // to tell apart
  const auto state = [&](int64_t index, int64_t taken) {
    return static_cast<int32_t>(index * (most + 1) + std::min(taken, most));
  };
  std::vector<Rules::Edge> edges;
  std::vector<int32_t> ends;
  for (int64_t i = 0; i < count; ++i) {
    const Rules::Expr value = r.Text(JsonText(values[static_cast<size_t>(i)], style_));
    const Rules::Expr later = r.Sequence({r.Text(style_.comma()), value});
    for (int64_t taken = 0; taken <= std::min(i, most); ++taken) {
      edges.push_back({state(i, taken), state(i + 1, taken), r.Empty()});
      if (!limited || taken < extent.max) {
        edges.push_back({state(i, taken), state(i + 1, taken + 1), taken > 0 ? later : value});
      }
    }
  }
  for (int64_t taken = extent.min; taken <= most; ++taken) ends.push_back(state(count, taken));
  if (ends.empty()) return r.Nothing();
  return r.Sequence({r.Text("["), r.Graph(state(count, most) + 1, std::move(edges), std::move(ends)), r.Text("]")});
}

// All lists without repetition that have one of the values at each place.
Rules::Expr SchemaCompiler::WriteTuples(const std::vector<std::vector<SchemaJson>>& values, const Extent& extent) {
  std::vector<std::string> texts;
  std::vector<const SchemaJson*> chosen;
  const auto extend = [&](const auto& self) -> void {
    rules_.budget().Step(1 + std::ssize(chosen));
    if (std::ssize(chosen) >= extent.min) {
      SchemaJson list = SchemaJson::array();
      for (const SchemaJson* value : chosen) list.push_back(*value);
      texts.push_back(JsonText(list, style_));
      if (texts.size() > kMostCases) document_.Unsupported("uniqueItems", "of so many values");
    }
    if (chosen.size() == values.size() || std::ssize(chosen) == extent.max) return;
    for (const SchemaJson& value : values[chosen.size()]) {
      if (std::ranges::any_of(chosen, [&](const SchemaJson* other) { return SameJson(value, *other); })) continue;
      chosen.push_back(&value);
      self(self);
      chosen.pop_back();
    }
  };
  extend(extend);
  return texts.empty() ? rules_.Nothing() : rules_.Texts(std::move(texts));
}

// Arrays without repetition, where it can be told: items are listed, or no two may be the same. None in the latter
// case.
std::optional<Rules::Expr> SchemaCompiler::WriteUnique(const Case& all, const Extent& extent) {
  const auto places = static_cast<size_t>(std::min<int64_t>(extent.max, static_cast<int64_t>(extent.prefix)));
  std::vector<Schemas> items;
  std::vector<std::vector<SchemaJson>> values;
  bool finite = true;
  for (size_t i = 0; i <= places; ++i) {
    if (i == places && extent.max == static_cast<int64_t>(places)) break;
    const std::optional<Schemas> schemas = ItemAt(all, i);
    items.push_back(schemas.value_or(Schemas()));
    const auto own = schemas ? FiniteValues(*schemas) : std::vector<SchemaJson>();
    finite = finite && own.has_value();
    values.push_back(own.value_or(std::vector<SchemaJson>()));
  }
  const bool rest = items.size() > places;
  if (finite && places == 0 && rest) return WriteSubsets(values[0], extent);
  if (finite && (!rest || values.back().empty())) return WriteTuples(values, extent);
  bool apart = !rest;
  for (size_t i = 0; i < items.size() && apart; ++i) {
    for (size_t j = 0; j < i && apart; ++j) {
      apart = std::ranges::any_of(items[i], [&](const SchemaJson* a) {
        return std::ranges::any_of(items[j],
                                   [&](const SchemaJson* b) { return Disjoint(*a, *b, document_, rules_.budget()); });
      });
    }
  }
  if (!apart) document_.Unsupported("uniqueItems", "of items that are neither listed nor told apart by their schemas");
  return std::nullopt;
}

Rules::Expr SchemaCompiler::WriteArray(const Case& all) {
  int64_t min = Least(all, "minItems"), max = Most(all, "maxItems");
  size_t prefix = 0;
  bool closed = false, open = false, unique = false;
  for (const Entry& entry : all) {
    const SchemaJson& schema = *entry.schema;
    if (const auto items = schema.find("items");
        items != schema.end() && !items->is_array() && !items->is_object() && !items->is_boolean()) {
      document_.Wrong("\"items\" is " + items->dump().substr(0, 60) + ", expected a schema");
    }
    if (const SchemaJson* const own = PrefixOf(schema); own != nullptr) {
      prefix = std::max(prefix, own->size());
      closed = true;
    }
    open = open || RestOf(schema) != nullptr || schema.contains("unevaluatedItems");
    const auto own_unique = schema.find("uniqueItems");
    unique = unique || (own_unique != schema.end() && *own_unique == true);
    if (schema.contains("contains") && unevaluated_) document_.Unsupported("contains", "beside unevaluatedItems");
  }
  // What is listed and not opened ends with the list.
  if (closed && !open) max = std::min(max, std::max<int64_t>(static_cast<int64_t>(prefix), min));
  // The first items are those that `contains` wants; no others are, where their number is limited.
  struct Wanted {
    const SchemaJson* schema;
    int64_t count;
    const SchemaJson* others;  // null: any
  };
  std::vector<Wanted> wanted;
  for (const Entry& entry : all) {
    const auto contains = entry.schema->find("contains");
    if (contains == entry.schema->end()) continue;
    const int64_t count = document_.Count(*entry.schema, "minContains", 1);
    const int64_t most = document_.Count(*entry.schema, "maxContains", Rules::kNoLimit);
    if (most < count) return rules_.Nothing();
    if (count > 100) document_.Unsupported("minContains", "above 100");
    const SchemaJson* others = nullptr;
    if (most != Rules::kNoLimit) others = &document_.Keep({{"not", document_.RefTo(*contains)}});
    wanted.push_back({&*contains, count, others});
    min = std::max(min, count);
    prefix = std::max(prefix, static_cast<size_t>(count));
  }
  if (max < min) return rules_.Nothing();
  if (unique && max > 1) {
    if (!wanted.empty()) document_.Unsupported("uniqueItems", "beside contains");
    if (const auto written = WriteUnique(all, {min, max, prefix})) return *written;
  }
  const auto item = [&](size_t index) {
    std::optional<Schemas> schemas = ItemAt(all, index);
    if (!schemas) return rules_.Nothing();
    for (const Wanted& w : wanted) {
      if (static_cast<int64_t>(index) < w.count) {
        schemas->push_back(w.schema);
      } else if (w.others != nullptr) {
        schemas->push_back(w.others);
      }
    }
    return ValueOf(std::move(*schemas));
  };
  Rules& r = rules_;
  const Rules::Expr comma = r.Text(style_.comma());
  const auto count = static_cast<int64_t>(prefix);
  std::vector<Rules::Edge> edges;
  const auto end = static_cast<int32_t>(prefix) + 1;
  for (int64_t i = 0; i <= count; ++i) {
    const auto state = static_cast<int32_t>(i);
    if (i >= min && i <= max) edges.push_back({state, end, r.Empty()});
    if (i >= max) break;
    const Rules::Expr value = item(static_cast<size_t>(i));
    if (i < count) {
      edges.push_back({state, state + 1, i > 0 ? r.Sequence({comma, value}) : value});
      continue;
    }
    // The first of the others, then more of them.
    const int64_t most = max == Rules::kNoLimit ? max : max - i - 1;
    const Rules::Expr more = r.Repeat(r.Sequence({comma, value}), std::max<int64_t>(0, min - i - 1), most);
    edges.push_back({state, end, r.Sequence({i > 0 ? comma : r.Empty(), value, more})});
  }
  return r.Sequence({r.Text("["), r.Graph(end + 1, std::move(edges), {end}), r.Text("]")});
}

}  // namespace cambium
