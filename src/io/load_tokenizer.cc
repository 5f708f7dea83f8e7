#include <filesystem>

#include "io/gguf.h"
#include "io/tokenizer.h"

namespace cambium {

Tokenizer LoadTokenizer(const std::string& model_path) {
  if (std::filesystem::is_directory(model_path)) {
    return Tokenizer::FromJsonFile((std::filesystem::path(model_path) / "tokenizer.json").string());
  }
  return Tokenizer::FromGguf(GgufFile(model_path));
}

}  // namespace cambium
