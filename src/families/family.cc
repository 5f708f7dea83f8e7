#include "families/family.h"

#include <algorithm>
#include <vector>

#include "base/check.h"

namespace cambium {
namespace {

std::string_view NameIn(const TensorRow& row, Dialect dialect) {
  return dialect == Dialect::kHuggingFace ? row.hf : row.gguf;
}

}  // namespace

const Family* FindFamily(std::string_view hf_type) {
  const auto found =
      std::ranges::find(Families(), hf_type, [](const Family* f) { return std::string_view(f->hf_type); });
  return found == Families().end() ? nullptr : *found;
}

const Family* FindGgufFamily(std::string_view architecture) {
  const auto fits = [&](const Family* family) { return family->gguf == architecture && family->claims == nullptr; };
  const auto found = std::ranges::find_if(Families(), fits);
  return found == Families().end() ? nullptr : *found;
}

std::string FamilyNames(Dialect dialect) {
  std::vector<std::string_view> names;
  for (const Family* family : Families()) {
    if (dialect == Dialect::kGguf && family->traits.encoder) continue;  // no such file
    const std::string_view name = dialect == Dialect::kHuggingFace ? family->hf_type : family->gguf;
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  std::string list;
  for (size_t i = 0; i < names.size(); ++i) {
    if (i > 0) list += i + 1 < names.size() ? ", " : " and ";
    list += names[i];
  }
  return list;
}

const TensorRow* TensorNames::Find(Role role) const {
  for (const TensorRow& row : family_->tensors) {
    if (row.role == role && !NameIn(row, dialect_).empty()) return &row;
  }
  return nullptr;
}

std::string TensorNames::Stem(Role role, int64_t layer, int64_t expert) const {
  const TensorRow* row = Find(role);
  Check(row != nullptr, "the family has the tensor");
  std::string name(NameIn(*row, dialect_));
  const bool decoder = layer >= encoder_layers_;
  constexpr std::string_view kStack = "{stack}";
  if (const size_t at = name.find(kStack); at != std::string::npos) {
    name.replace(at, kStack.size(), decoder ? "decoder" : "encoder");
  }
  if (decoder) layer -= encoder_layers_;
  for (const int64_t number : {layer, expert}) {
    if (const size_t at = name.find("{}"); at != std::string::npos) name.replace(at, 2, std::to_string(number));
  }
  return name;
}

std::string TensorNames::Layers() const {
  const std::string_view pattern = NameIn(*Find(Role::kO), dialect_);
  return std::string(pattern.substr(0, pattern.find("{}")));
}

Layout TensorNames::LayoutOf(Role role) const {
  const TensorRow* row = Find(role);
  Check(row != nullptr, "the family has the tensor");
  const bool of_gguf = row->layout == Layout::kRopePairs;  // the others are Hugging Face's
  return of_gguf == (dialect_ == Dialect::kGguf) ? row->layout : Layout::kPlain;
}

}  // namespace cambium
