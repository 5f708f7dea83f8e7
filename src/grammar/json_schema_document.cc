#include "grammar/json_schema_document.h"

#include <cmath>

#include "cambium/error.h"
#include "grammar/regex.h"

namespace cambium {
namespace {

// Keywords whose values are no schemas.
bool HoldsData(const std::string& key) {
  return key == "enum" || key == "const" || key == "default" || key == "examples" || key == "example";
}

// Keywords whose values are schemas by names that are no keywords.
bool HoldsSchemas(const std::string& key) {
  return key == "properties" || key == "patternProperties" || key == "$defs" || key == "definitions" ||
         key == "dependentSchemas" || key == "dependencies";
}

size_t SchemeEnd(const std::string& uri) {
  size_t i = 0;
  while (i < uri.size() &&
         (std::isalnum(static_cast<unsigned char>(uri[i])) || uri[i] == '+' || uri[i] == '.' || uri[i] == '-')) {
    ++i;
  }
  return i > 0 && i < uri.size() && uri[i] == ':' && std::isalpha(static_cast<unsigned char>(uri[0])) ? i + 1 : 0;
}

// A path without "." and "..".
std::string WithoutDots(const std::string& path) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    const bool last = end == path.size();
    if (part == ".." && parts.size() > 1) parts.pop_back();
    if (part != "." && part != "..") parts.push_back(part);
    if (last && (part == "." || part == "..")) parts.emplace_back();
    begin = end + 1;
  }
  std::string out;
  for (size_t i = 0; i < parts.size(); ++i) out += (i > 0 ? "/" : "") + parts[i];
  return out;
}

// RFC 3986, 5.2.
std::string Resolved(const std::string& base, const std::string& reference) {
  if (reference.empty()) return base.substr(0, base.find('#'));
  if (SchemeEnd(reference) > 0) return reference;
  const std::string document = base.substr(0, base.find('#'));
  if (reference[0] == '#') return document + reference;
  const size_t scheme = SchemeEnd(document);
  size_t path = scheme;
  if (document.compare(scheme, 2, "//") == 0) path = std::min(document.find('/', scheme + 2), document.size());
  const size_t hash = std::min(reference.find('#'), reference.size());
  std::string merged = reference.substr(0, hash);
  if (reference[0] != '/') {
    const size_t slash = document.rfind('/');
    const bool bare = slash == std::string::npos || slash < path;  // no path to lie in
    merged = (bare ? (path > scheme ? "/" : "") : document.substr(path, slash + 1 - path)) + merged;
  }
  return document.substr(0, path) + WithoutDots(merged) + reference.substr(hash);
}

// Keywords of earlier drafts and of OpenAPI, in the words of 2020-12.
void Modernize(SchemaJson& node) {
  for (const auto& [exclusive, bound] :
       {std::pair("exclusiveMinimum", "minimum"), std::pair("exclusiveMaximum", "maximum")}) {
    const auto found = node.find(exclusive);
    if (found == node.end() || !found->is_boolean()) continue;
    const bool holds = found->get<bool>() && node.contains(bound);
    node.erase(exclusive);
    if (!holds) continue;
    const SchemaJson limit = node[bound];
    node.erase(bound);
    node[exclusive] = limit;
  }
  if (const auto found = node.find("nullable"); found != node.end() && found->is_boolean()) {
    const bool null = found->get<bool>();
    node.erase("nullable");
    const auto type = node.find("type");
    if (null && type != node.end() && type->is_string()) *type = SchemaJson::array({*type, "null"});
  }
  const auto dependencies = node.find("dependencies");
  if (dependencies == node.end() || !dependencies->is_object()) return;
  const SchemaJson all = *dependencies;
  node.erase("dependencies");
  for (const auto& [name, needed] : all.items()) {
    node[needed.is_array() ? "dependentRequired" : "dependentSchemas"][name] = needed;
  }
}

std::string PercentDecoded(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && std::isxdigit(static_cast<unsigned char>(text[i + 1])) &&
        std::isxdigit(static_cast<unsigned char>(text[i + 2]))) {
      out += static_cast<char>(std::stoi(text.substr(i + 1, 2), nullptr, 16));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

// The node that a JSON pointer names below `node`; null: none.
const SchemaJson* Follow(const SchemaJson* node, const std::string& pointer) {
  size_t begin = 1;
  while (begin <= pointer.size()) {
    const size_t end = std::min(pointer.find('/', begin), pointer.size());
    std::string key = pointer.substr(begin, end - begin);
    for (const auto& [from, to] : {std::pair("~1", "/"), std::pair("~0", "~")}) {
      for (size_t at = key.find(from); at != std::string::npos; at = key.find(from, at + 1)) key.replace(at, 2, to);
    }
    if (node->is_object()) {
      const auto found = node->find(key);
      if (found == node->end()) return nullptr;
      node = &*found;
    } else if (node->is_array()) {
      if (key.empty() || key.size() > 9 || key.find_first_not_of("0123456789") != std::string::npos) return nullptr;
      const size_t index = std::stoul(key);
      if (index >= node->size()) return nullptr;
      node = &(*node)[index];
    } else {
      return nullptr;
    }
    begin = end + 1;
  }
  return node;
}

}  // namespace

SchemaDocument::SchemaDocument(SchemaJson schema, std::string what) : root_(std::move(schema)), what_(std::move(what)) {
  root_uri_ = "cambium:/schema";
  resources_[root_uri_] = &root_;
  CountAnchors(root_, root_uri_);
  Index(root_, root_uri_, true);
}

std::string SchemaDocument::UriOf(const SchemaJson& node, const std::string& base) {
  const auto id = node.find("$id");
  if (id == node.end() || !id->is_string()) return base;
  std::string own = Resolved(base, id->get<std::string>());
  if (!own.empty() && own.back() == '#') own.pop_back();
  return own;
}

void SchemaDocument::CountAnchors(const SchemaJson& node, const std::string& base) {
  if (!node.is_structured()) return;
  std::string own = base;
  if (node.is_object()) {
    own = UriOf(node, base);
    const auto anchor = node.find("$dynamicAnchor");
    if (anchor != node.end() && anchor->is_string()) {
      ++dynamic_anchors_[anchor->get<std::string>()];
      dynamic_places_.insert(own + "#" + anchor->get<std::string>());
    }
  }
  for (const SchemaJson& part : node) CountAnchors(part, own);
}

// What a dynamic reference leads to, where that is the same wherever it is come from: to an anchor of the outermost
// schema, which every way begins in; to the only one of its name; or, as a plain reference does, to what is no dynamic
// anchor. Empty: it depends.
std::string SchemaDocument::DynamicTarget(const std::string& own, const std::string& reference) const {
  const std::string start = Resolved(own, reference);
  if (!dynamic_places_.contains(start)) return start;
  const std::string name = start.substr(start.find('#') + 1);
  const std::string outermost = UriOf(root_, root_uri_) + "#" + name;
  if (dynamic_places_.contains(outermost)) return outermost;
  return dynamic_anchors_.at(name) == 1 ? start : "";
}

// Notes the schemas that have names, and makes every reference absolute. `schema`: the node is one, not a map of them.
void SchemaDocument::Index(SchemaJson& node, const std::string& base, bool schema) {
  if (node.is_array()) {
    for (SchemaJson& item : node) Index(item, base, true);
    return;
  }
  if (!node.is_object()) return;
  if (schema) Modernize(node);
  const std::string own = UriOf(node, base);
  if (own != base) resources_[own] = &node;
  for (const char* keyword : {"$anchor", "$dynamicAnchor"}) {
    const auto anchor = node.find(keyword);
    if (anchor != node.end() && anchor->is_string()) anchors_[own + "#" + anchor->get<std::string>()] = &node;
  }
  const auto dynamic = node.find("$dynamicRef");
  if (dynamic != node.end() && dynamic->is_string() && !node.contains("$ref")) {
    const std::string target = DynamicTarget(own, dynamic->get<std::string>());
    if (!target.empty()) {
      node.erase("$dynamicRef");
      node["$ref"] = target;
    }
  }
  const auto reference = node.find("$ref");
  if (reference != node.end() && reference->is_string()) *reference = Resolved(own, reference->get<std::string>());
  for (auto& [key, value] : node.items()) {
    if (key[0] == '\x01') Wrong("a key begins with a control character");
    if (!HoldsData(key)) Index(value, own, !(schema && HoldsSchemas(key)));
  }
}

void SchemaDocument::Wrong(const std::string& why) const { Fail(ErrorCode::kUsage, what_, ": ", why); }

void SchemaDocument::Unsupported(const std::string& keyword, const std::string& why) const {
  Wrong("the keyword \"" + keyword.substr(0, 60) + "\" is not supported" + (why.empty() ? "" : " " + why));
}

SchemaJson SchemaDocument::RefTo(const SchemaJson& node) {
  const auto [at, fresh] = node_numbers_.try_emplace(&node, nodes_.size());
  if (fresh) nodes_.push_back(&node);
  return {{"$ref", kNodeScheme + std::to_string(at->second)}};
}

const SchemaJson& SchemaDocument::Resolve(const std::string& reference) const {
  const std::string scheme = kNodeScheme;
  if (reference.compare(0, scheme.size(), scheme) == 0) {
    const std::string number = reference.substr(scheme.size());
    if (number.size() < 10 && number.find_first_not_of("0123456789") == std::string::npos && !number.empty() &&
        std::stoul(number) < nodes_.size()) {
      return *nodes_[std::stoul(number)];
    }
  }
  const size_t hash = reference.find('#');
  const std::string uri = reference.substr(0, hash);
  const std::string fragment = hash == std::string::npos ? "" : PercentDecoded(reference.substr(hash + 1));
  const auto resource = resources_.find(uri);
  const std::string shown = uri == root_uri_ ? "#" + fragment : reference;
  if (resource == resources_.end()) {
    Wrong("the reference \"" + shown.substr(0, 100) + "\" is not to this schema; nothing is fetched");
  }
  const SchemaJson* found = nullptr;
  if (fragment.empty() || fragment[0] == '/') {
    found = Follow(resource->second, fragment);
  } else if (const auto anchor = anchors_.find(uri + "#" + fragment); anchor != anchors_.end()) {
    found = anchor->second;
  }
  if (found == nullptr) Wrong("the reference \"" + shown.substr(0, 100) + "\" names nothing");
  return *found;
}

int64_t SchemaDocument::Count(const SchemaJson& schema, const char* keyword, int64_t fallback) const {
  const auto found = schema.find(keyword);
  if (found == schema.end()) return fallback;
  if (found->is_number_unsigned() || found->is_number_integer()) {
    const bool fits = !found->is_number_unsigned() || found->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX);
    if (fits && found->get<int64_t>() >= 0) return found->get<int64_t>();
  } else if (found->is_number_float()) {
    const double value = found->get<double>();
    if (value >= 0 && value < 1e15 && value == std::floor(value)) return static_cast<int64_t>(value);
  }
  Wrong(std::string("\"") + keyword + "\" is " + found->dump().substr(0, 40) + ", expected a whole number from 0");
}

const CharDfa& SchemaDocument::Pattern(const std::string& pattern, CompileBudget& budget) {
  const auto found = patterns_.find(pattern);
  if (found != patterns_.end()) return found->second;
  return patterns_.emplace(pattern, CompileRegex(pattern, RegexMatch::kSearch, what_, budget)).first->second;
}

}  // namespace cambium
