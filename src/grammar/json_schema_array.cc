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

Rules::Expr SchemaCompiler::WriteArray(const Case& all) {
  int64_t min = Least(all, "minItems"), max = Most(all, "maxItems");
  size_t prefix = 0;
  bool closed = false, open = false;
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
    if (const auto unique = schema.find("uniqueItems"); unique != schema.end() && *unique == true && max > 1) {
      document_.Unsupported("uniqueItems");
    }
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
