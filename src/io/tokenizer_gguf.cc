#include "cambium/error.h"
#include "cambium/warning.h"
#include "io/gguf.h"
#include "io/gguf_tokenizer_keys.h"
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

namespace {

void ReadTextRules(const GgufFile& file, TokenizerSpec& spec) {
  const bool sentence_piece = spec.kind == TokenizerSpec::Kind::kSentencePieceBpe;
  TextRules& text = spec.text;
  if (file.Bool("tokenizer.ggml.add_space_prefix", sentence_piece)) {
    text.prefix = sentence_piece ? SpacePrefix::kDoubled : SpacePrefix::kEach;
    text.strip = sentence_piece ? SpaceStrip::kOne : SpaceStrip::kNone;
  }
  if (file.Bool("tokenizer.ggml.remove_extra_whitespaces", false)) {
    text.strip_left = text.strip_right = text.collapse_spaces = true;
  }
  if (file.Find("tokenizer.ggml.precompiled_charsmap") != nullptr) {
    Fail(ErrorCode::kData, file.path(), ": tokenizer.ggml.precompiled_charsmap is not supported");
  }
  // What only Cambium writes, because llama.cpp has no key for it.
  const std::string prefix = file.Str(kSpacePrefixKey, "");
  if (prefix == "each" || prefix == "first") {
    text.prefix = prefix == "each" ? SpacePrefix::kEach : SpacePrefix::kFirst;
  } else if (!prefix.empty()) {
    Fail(ErrorCode::kData, file.path(), ": ", kSpacePrefixKey, " \"", prefix, "\" is not known (each, first)");
  }
  const std::string strip = file.Str(kSpaceStripKey, "");
  if (strip == "none" || strip == "one" || strip == "piece") {
    text.strip = strip == "none" ? SpaceStrip::kNone : strip == "one" ? SpaceStrip::kOne : SpaceStrip::kFirstPiece;
  } else if (!strip.empty()) {
    Fail(ErrorCode::kData, file.path(), ": ", kSpaceStripKey, " \"", strip, "\" is not known (none, one, piece)");
  }
  text.nfc = file.Bool(kNfcKey, text.nfc);
  spec.ignore_merges = file.Bool(kIgnoreMergesKey, spec.ignore_merges);
  text.late_spaces = file.Bool(kLateSpacesKey, false);
  if (file.Bool(kCutAtSpacesKey, false)) spec.split.push_back(PreTokenizer::AtSpaces());
  const std::vector<int64_t> flags = file.Ints(kAddedFlagsKey);
  for (size_t i = 0; i + 1 < flags.size(); i += 2) {
    const auto has = [&](int64_t bit) { return (flags[i + 1] & bit) != 0; };
    if (flags[i] < 0 || flags[i] >= static_cast<int64_t>(spec.pieces.size())) {
      Fail(ErrorCode::kData, file.path(), ": ", kAddedFlagsKey, " holds the id ", flags[i]);
    }
    spec.added_flags.push_back(
        {static_cast<int32_t>(flags[i]), has(kStripLeft), has(kStripRight), has(kSingleWord), has(kNormalized)});
  }
}

}  // namespace

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
    spec.text.nfc = ImpliesNfc(pre);
    spec.ignore_merges = ImpliesIgnoreMerges(pre);
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
  const bool by_merges = file.Bool(kByMergesKey, !sentence_piece);
  if (!by_merges) spec.merges.clear();  // its scores decide
  spec.fuse_unk = sentence_piece;
  spec.bos = GgufTokenId(file, "bos", sentence_piece ? 1 : -1);
  spec.eos = GgufTokenId(file, "eos", sentence_piece ? 2 : -1);
  spec.unk = GgufTokenId(file, "unknown", sentence_piece ? 0 : -1);
  spec.pad = GgufTokenId(file, "padding", -1);
  const bool add_bos = file.Bool("tokenizer.ggml.add_bos_token", sentence_piece || ImpliesIgnoreMerges(pre));
  if (add_bos && spec.bos >= 0) spec.before = {spec.bos};
  if (file.Bool("tokenizer.ggml.add_eos_token", false) && spec.eos >= 0) spec.after = {spec.eos};
  ReadTextRules(file, spec);
  spec.chat_template = file.Str("tokenizer.chat_template", "");
  for (const auto& entry : file.metadata()) {
    if (!entry.first.starts_with(kGgufNamedTemplate)) continue;
    spec.named_templates.emplace_back(entry.first.substr(kGgufNamedTemplate.size()), file.Str(entry.first));
  }
  spec.end_of_generation = GgufEndTokens(file);
  if (spec.pad >= static_cast<int32_t>(spec.pieces.size())) {
    Warn(file.path(), ": tokenizer.ggml.padding_token_id is ", spec.pad, ", beyond the ", spec.pieces.size(),
         " tokens; taken as none");
    spec.pad = -1;
  }
  return spec;
}

}  // namespace cambium
