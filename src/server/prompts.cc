#include "server/prompts.h"

#include <fmt/format.h>

#include <algorithm>

namespace cambium::server {
namespace {

std::vector<int32_t> OnePrompt(const Json& value, const std::string& where, const Model& model, bool add_bos) {
  if (value.is_array()) return ReadIds(value, where, model);
  if (!value.is_string()) Refuse(where, value, "a text or a list of token ids");
  std::vector<int32_t> ids = model.Tokenize(value.get_ref<const std::string&>(), false, add_bos);
  if (ids.empty()) Refuse(where, where + " is empty");
  return ids;
}

}  // namespace

std::vector<int32_t> ReadIds(const Json& list, const std::string& where, const Model& model) {
  const int64_t vocab = model.info().vocab;
  if (!list.is_array()) Refuse(where, list, "a list of token ids");
  if (list.empty()) Refuse(where, where + " is empty");
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const Json& id : list) {
    const bool good = id.is_number_integer() && (!id.is_number_unsigned() || id.get<uint64_t>() < uint64_t{1} << 31) &&
                      id.get<int64_t>() >= 0 && id.get<int64_t>() < vocab;
    if (!good) Refuse(where, id, fmt::format("token ids of the vocabulary, from 0 to {}", vocab - 1));
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

std::vector<std::vector<int32_t>> ReadPrompts(const Fields& fields, const char* name, const Model& model,
                                              bool add_bos) {
  const Json* const value = fields.Find(name);
  if (value == nullptr) Refuse(name, std::string(name) + " is missing");
  const bool several = value->is_array() && !value->empty() && !(*value)[0].is_number();
  if (!several) return {OnePrompt(*value, name, model, add_bos)};
  std::vector<std::vector<int32_t>> prompts;
  for (size_t i = 0; i < value->size(); ++i) {
    prompts.push_back(OnePrompt((*value)[i], fmt::format("{}[{}]", name, i), model, add_bos));
  }
  return prompts;
}

}  // namespace cambium::server
