#include "cambium/error.h"
#include "cambium/warning.h"
#include "io/gguf.h"
#include "io/tokenizer.h"
#include "io/tokenizer_files.h"

namespace cambium {

int32_t GgufTokenId(const GgufFile& file, std::string_view name, int32_t fallback) {
  const std::string key = "tokenizer.ggml." + std::string(name) + "_token_id";
  const std::vector<int64_t> ids = file.Ints(key);
  if (file.Find(key) == nullptr) return fallback;
  if (ids.size() != 1) Fail(ErrorCode::kData, file.path(), ": ", key, " has ", ids.size(), " values, expected one");
  if (ids[0] < 0 || ids[0] == 0xFFFFFFFF) return -1;
  if (ids[0] >= int64_t{1} << 31) Fail(ErrorCode::kData, file.path(), ": ", key, " is ", ids[0]);
  return static_cast<int32_t>(ids[0]);
}

std::vector<int32_t> GgufEndTokens(const GgufFile& file) {
  std::vector<int32_t> ends;
  for (std::string_view name : {"eot", "eom"}) {
    if (const int32_t id = GgufTokenId(file, name, -1); id >= 0) ends.push_back(id);
  }
  for (const int64_t id : file.Ints(kGgufEndTokens)) {
    if (id < 0 || id >= int64_t{1} << 31) Fail(ErrorCode::kData, file.path(), ": ", kGgufEndTokens, " holds ", id);
    ends.push_back(static_cast<int32_t>(id));
  }
  return ends;
}

TokenizerSpec TokenizerSpecFromGguf(const GgufFile& file) {
  TokenizerSpec spec;
  spec.source = file.path();
  const std::string model = file.Str("tokenizer.ggml.model", "");
  const std::string pre = file.Str("tokenizer.ggml.pre", "");
  if (model == "gpt2") {
    spec.kind = TokenizerSpec::Kind::kByteLevelBpe;
    if (pre.empty()) {
      Warn(file.path(),
           ": tokenizer.ggml.pre is missing: text is cut into words as GPT-2 does; a Llama 3 or Qwen file "
           "without the key is tokenised wrongly, convert the model again");
    }
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
  spec.bos = GgufTokenId(file, "bos", sentence_piece ? 1 : -1);
  spec.eos = GgufTokenId(file, "eos", sentence_piece ? 2 : -1);
  spec.unk = GgufTokenId(file, "unknown", sentence_piece ? 0 : -1);
  spec.pad = GgufTokenId(file, "padding", -1);
  spec.add_bos = file.Bool("tokenizer.ggml.add_bos_token", sentence_piece || spec.ignore_merges);
  spec.add_eos = file.Bool("tokenizer.ggml.add_eos_token", false);
  spec.add_space_prefix = file.Bool("tokenizer.ggml.add_space_prefix", sentence_piece);
  spec.chat_template = file.Str("tokenizer.chat_template", "");
  spec.end_of_generation = GgufEndTokens(file);
  if (spec.pad >= static_cast<int32_t>(spec.pieces.size())) {
    Warn(file.path(), ": tokenizer.ggml.padding_token_id is ", spec.pad, ", beyond the ", spec.pieces.size(),
         " tokens; taken as none");
    spec.pad = -1;
  }
  return spec;
}

}  // namespace cambium
