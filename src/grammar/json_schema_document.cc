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

size_t SchemeEnd(const std::string& uri) {
  size_t i = 0;
  while (i < uri.size() &&
         (std::isalnum(static_cast<unsigned char>(uri[i])) || uri[i] == '+' || uri[i] == '.' || uri[i] == '-')) {
    ++i;
  }
  return i > 0 && i < uri.size() && uri[i] == ':' && std::isalpha(static_cast<unsigned char>(uri[0])) ? i + 1 : 0;
}

// RFC 3986, 5.2, without dot segments.
std::string Resolved(const std::string& base, const std::string& reference) {
  if (reference.empty()) return base.substr(0, base.find('#'));
  if (SchemeEnd(reference) > 0) return reference;
  const std::string document = base.substr(0, base.find('#'));
  if (reference[0] == '#') return document + reference;
  const size_t scheme = SchemeEnd(document);
  size_t path = scheme;
  if (document.compare(scheme, 2, "//") == 0) path = std::min(document.find('/', scheme + 2), document.size());
  if (reference[0] == '/') return document.substr(0, path) + reference;
  const size_t slash = document.rfind('/');
  return (slash == std::string::npos || slash < path
              ? document.substr(0, path) + (scheme > 0 && path > scheme ? "/" : "")
              : document.substr(0, slash + 1)) +
         reference;
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
  CountAnchors(root_);
  Index(root_, root_uri_, 0);
}

void SchemaDocument::CountAnchors(const SchemaJson& node) {
  if (!node.is_structured()) return;
  if (node.is_object()) {
    const auto anchor = node.find("$dynamicAnchor");
    if (anchor != node.end() && anchor->is_string()) ++dynamic_anchors_[anchor->get<std::string>()];
  }
  for (const SchemaJson& part : node) CountAnchors(part);
}

// Notes the schemas that have names, and makes every reference absolute.
void SchemaDocument::Index(SchemaJson& node, const std::string& base, int depth) {
  if (node.is_array()) {
    for (SchemaJson& item : node) Index(item, base, depth + 1);
    return;
  }
  if (!node.is_object()) return;
  std::string own = base;
  const auto id = node.find("$id");
  if (id != node.end() && id->is_string()) {
    own = Resolved(base, id->get<std::string>());
    if (!own.empty() && own.back() == '#') own.pop_back();
    resources_[own] = &node;
  }
  for (const char* keyword : {"$anchor", "$dynamicAnchor"}) {
    const auto anchor = node.find(keyword);
    if (anchor != node.end() && anchor->is_string()) anchors_[own + "#" + anchor->get<std::string>()] = &node;
  }
  // Where only one anchor has the name, a dynamic reference is a reference.
  const auto dynamic = node.find("$dynamicRef");
  if (dynamic != node.end() && dynamic->is_string() && !node.contains("$ref")) {
    const auto text = dynamic->get<std::string>();
    const size_t hash = text.find('#');
    const auto count = dynamic_anchors_.find(hash == std::string::npos ? "" : text.substr(hash + 1));
    if (count == dynamic_anchors_.end() || count->second == 1) {
      node.erase("$dynamicRef");
      node["$ref"] = text;
    }
  }
  const auto reference = node.find("$ref");
  if (reference != node.end() && reference->is_string()) *reference = Resolved(own, reference->get<std::string>());
  for (auto& [key, value] : node.items()) {
    if (key[0] == '\x01') Wrong("a key begins with a control character");
    if (!HoldsData(key)) Index(value, own, depth + 1);
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
