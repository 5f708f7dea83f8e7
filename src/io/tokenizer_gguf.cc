#include <array>

#include "cambium/error.h"
#include "io/gguf.h"
#include "io/tokenizer.h"
#include "io/tokenizer_end.h"

namespace cambium {
namespace {

int32_t IdOf(const GgufFile& file, std::string_view name, int32_t fallback) {
  const std::string key = "tokenizer.ggml." + std::string(name) + "_token_id";
  if (file.Find(key) == nullptr) return fallback;
  const uint64_t id = file.U64(key);
  if (id == 0xFFFFFFFFu) return -1;  // written for "none"
  if (id >= (uint64_t{1} << 31)) Fail(ErrorCode::kData, file.path(), ": ", key, " is ", id);
  return static_cast<int32_t>(id);
}

}  // namespace

TokenizerSpec TokenizerSpecFromGguf(const GgufFile& file) {
  TokenizerSpec spec;
  spec.source = file.path();
  const std::string model = file.Str("tokenizer.ggml.model", "");
  const std::string pre = file.Str("tokenizer.ggml.pre", "");
  if (model == "gpt2") {
    spec.kind = TokenizerSpec::Kind::kByteLevelBpe;
    spec.split = PreTokenizer::StepsOf(pre);
    spec.normalize_nfc = pre == "qwen2" || pre == "deepseek-r1-qwen";
    spec.ignore_merges = pre == "llama3" || pre == "llama-v3" || pre == "llama-bpe";
  } else if (model == "llama") {
    spec.kind = TokenizerSpec::Kind::kSentencePieceBpe;
  } else if (model.empty()) {
    Fail(ErrorCode::kData, file.path(), ": tokenizer.ggml.model is missing");
  } else {
    Fail(ErrorCode::kData, file.path(), ": tokenizer.ggml.model \"", model, "\" is not known (gpt2, llama)");
  }
  const bool sentence_piece = model == "llama";
  spec.pieces = file.Strings("tokenizer.ggml.tokens");
  for (int64_t type : file.Ints("tokenizer.ggml.token_type")) {
    if (type < 0 || type > 6) Fail(ErrorCode::kData, file.path(), ": tokenizer.ggml.token_type holds ", type);
    spec.types.push_back(type == 0 ? TokenType::kNormal : static_cast<TokenType>(type));
  }
  if (sentence_piece) spec.scores = file.Floats("tokenizer.ggml.scores");
  for (std::string_view merge : file.Strings("tokenizer.ggml.merges")) {
    const size_t space = merge.find(' ', 1);
    if (space == merge.npos || space + 1 == merge.size()) {
      Fail(ErrorCode::kData, file.path(), ": tokenizer.ggml.merges holds \"", merge.substr(0, 40),
           "\", two pieces expected");
    }
    spec.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  if (sentence_piece) spec.merges.clear();  // its scores decide
  spec.bos = IdOf(file, "bos", sentence_piece ? 1 : -1);
  spec.eos = IdOf(file, "eos", sentence_piece ? 2 : -1);
  spec.unk = IdOf(file, "unknown", sentence_piece ? 0 : -1);
  spec.pad = IdOf(file, "padding", -1);
  spec.add_bos = file.Bool("tokenizer.ggml.add_bos_token", sentence_piece || spec.ignore_merges);
  spec.add_eos = file.Bool("tokenizer.ggml.add_eos_token", false);
  spec.add_space_prefix = file.Bool("tokenizer.ggml.add_space_prefix", sentence_piece);
  spec.chat_template = file.Str("tokenizer.chat_template", "");
  for (std::string_view name : {"eot", "eom"}) {
    const int32_t id = IdOf(file, name, -1);
    if (id >= 0) spec.end_of_generation.push_back(id);
  }
  AddEndsByName(spec);
  return spec;
}

}  // namespace cambium
