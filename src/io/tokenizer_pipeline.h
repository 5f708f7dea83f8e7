#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "cambium/error.h"
#include "io/json.h"
#include "io/tokenizer.h"

namespace cambium {

// The members of a tokenizer.json, with their types checked; kData naming `source` otherwise.
class JsonMembers {
 public:
  explicit JsonMembers(std::string source) : source_(std::move(source)) {}

  template <class... Parts>
  [[noreturn]] void Bad(const Parts&... parts) const {
    Fail(ErrorCode::kData, source_, ": ", parts...);
  }
  static const nlohmann::json& Get(const nlohmann::json& object, const char* name);  // null: none
  std::string Text(const nlohmann::json& object, const char* name, const char* fallback) const;
  bool Flag(const nlohmann::json& object, const char* name, bool fallback) const;
  int64_t Whole(const nlohmann::json& object, const char* name, int64_t fallback) const;

 private:
  std::string source_;
};

// Reads what stands around the model of a tokenizer.json into `spec`, whose pieces are there already: normalizer,
// pre_tokenizer, post_processor and decoder. `id_of` finds a piece. What would change ids or text and is not known is
// kData by name.
void ReadPipeline(const JsonMembers& members, const nlohmann::json& root,
                  const std::function<int32_t(std::string_view)>& id_of, TokenizerSpec& spec);

}  // namespace cambium
