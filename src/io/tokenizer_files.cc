#include "io/tokenizer_files.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "cambium/error.h"
#include "cambium/warning.h"
#include "io/atomic_file.h"
#include "io/gguf_writer.h"
#include "io/json.h"

namespace cambium {
namespace {

using nlohmann::ordered_json;
using Kind = TokenizerSpec::Kind;
using Merge = std::pair<std::string_view, std::string_view>;

constexpr std::string_view kSpace = "\u2581";

// The tokenizer.ggml.pre whose steps these are.
std::string_view PreTokenizerName(const TokenizerSpec& spec) {
  for (std::string_view name : {"gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "gpt-4o"}) {
    const std::vector<SplitStep> steps = PreTokenizer::StepsOf(name);
    const bool same = std::equal(
        steps.begin(), steps.end(), spec.split.begin(), spec.split.end(),
        [](const SplitStep& a, const SplitStep& b) { return a.pattern == b.pattern && a.drop_gaps == b.drop_gaps; });
    if (same) return name;
  }
  Fail(ErrorCode::kData, spec.source, ": GGUF has no name for its pre_tokenizer");
}

// SentencePiece files order merges by the score of the result: the earlier the merge, the higher the score.
std::vector<float> ScoresFromMerges(const TokenizerSpec& spec) {
  std::unordered_map<std::string, float> rank;
  for (const auto& [left, right] : spec.merges) {
    rank.emplace(std::string(left).append(right), -static_cast<float>(rank.size()));
  }
  std::vector<float> scores;
  for (std::string_view piece : spec.pieces) {
    const auto found = rank.find(std::string(piece));
    scores.push_back(found != rank.end() ? found->second : -1e6f);  // never the result of a merge
  }
  return scores;
}

// And back: every way to make a piece from two others, by falling score.
std::vector<Merge> MergesFromScores(const TokenizerSpec& spec) {
  std::unordered_map<std::string_view, size_t> ids;
  for (size_t id = 0; id < spec.pieces.size(); ++id) ids.emplace(spec.pieces[id], id);
  std::vector<size_t> order;
  for (size_t id = 0; id < spec.pieces.size(); ++id) {
    if (spec.types.empty() || spec.types[id] == TokenType::kNormal) order.push_back(id);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return spec.scores[a] > spec.scores[b]; });
  std::vector<Merge> merges;
  for (size_t id : order) {
    const std::string_view piece = spec.pieces[id];
    std::vector<std::array<size_t, 3>> ways;  // left id, right id, place
    for (size_t cut = 1; cut < piece.size(); ++cut) {
      const auto left = ids.find(piece.substr(0, cut)), right = ids.find(piece.substr(cut));
      if (left != ids.end() && right != ids.end()) ways.push_back({left->second, right->second, cut});
    }
    std::sort(ways.begin(), ways.end());
    for (const auto& [left, right, cut] : ways) merges.emplace_back(piece.substr(0, cut), piece.substr(cut));
  }
  return merges;
}

TokenType TypeOf(const TokenizerSpec& spec, size_t id) {
  return spec.types.empty() ? TokenType::kNormal : spec.types[id];
}

ordered_json Replace(std::string_view from, std::string_view to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

ordered_json PreTokenizerJson(const TokenizerSpec& spec) {
  auto steps = ordered_json::array();
  for (const SplitStep& step : spec.split) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", step.pattern}}},
                     {"behavior", step.drop_gaps ? "Removed" : "Isolated"},
                     {"invert", step.drop_gaps}});
  }
  steps.push_back({{"type", "ByteLevel"},
                   {"add_prefix_space", spec.add_space_prefix},
                   {"trim_offsets", true},
                   {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

// [bos] A [eos], as far as the model adds them.
ordered_json PostProcessorJson(const TokenizerSpec& spec) {
  auto single = ordered_json::array(), pair = ordered_json::array();
  auto specials = ordered_json::object();
  const auto add = [&](int32_t id) {
    const std::string piece(spec.pieces[static_cast<size_t>(id)]);
    const ordered_json entry = {{"SpecialToken", {{"id", piece}, {"type_id", 0}}}};
    single.push_back(entry);
    pair.push_back(entry);
    specials[piece] = {{"id", piece}, {"ids", ordered_json::array({id})}, {"tokens", ordered_json::array({piece})}};
  };
  const ordered_json first = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  if (spec.add_bos && spec.bos >= 0) add(spec.bos);
  single.push_back(first);
  pair.push_back(first);
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  if (spec.add_eos && spec.eos >= 0) add(spec.eos);
  if (specials.empty()) return nullptr;
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", specials}};
}

ordered_json TokenizerJson(const TokenizerSpec& spec) {
  const bool sentence_piece = spec.kind == Kind::kSentencePieceBpe;
  auto added = ordered_json::array(), vocab = ordered_json::object(), merges = ordered_json::array();
  for (size_t id = 0; id < spec.TextPieces(); ++id) {
    const TokenType type = TypeOf(spec, id);
    vocab[std::string(spec.pieces[id])] = id;
    if (type != TokenType::kControl && type != TokenType::kUserDefined && type != TokenType::kUnknown) continue;
    added.push_back({{"id", id},
                     {"content", spec.pieces[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", type != TokenType::kUserDefined}});
  }
  const bool by_scores = sentence_piece && spec.merges.empty();
  for (const auto& [left, right] : by_scores ? MergesFromScores(spec) : spec.merges) merges.push_back({left, right});

  ordered_json normalizer = nullptr, pre_tokenizer = nullptr;
  ordered_json decoder = {
      {"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  if (sentence_piece) {
    auto steps = ordered_json::array();
    if (spec.add_space_prefix) steps.push_back({{"type", "Prepend"}, {"prepend", kSpace}});
    steps.push_back(Replace(" ", kSpace));
    normalizer = {{"type", "Sequence"}, {"normalizers", steps}};
    auto decoders = ordered_json::array({Replace(kSpace, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
    if (spec.add_space_prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    decoder = {{"type", "Sequence"}, {"decoders", decoders}};
  } else {
    if (spec.normalize_nfc) normalizer = {{"type", "NFC"}};
    pre_tokenizer = PreTokenizerJson(spec);
  }
  ordered_json unknown = nullptr;
  if (sentence_piece && spec.unk >= 0) unknown = spec.pieces[static_cast<size_t>(spec.unk)];
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", normalizer},
          {"pre_tokenizer", pre_tokenizer},
          {"post_processor", PostProcessorJson(spec)},
          {"decoder", decoder},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", unknown},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", sentence_piece},
            {"byte_fallback", sentence_piece},
            {"ignore_merges", spec.ignore_merges},
            {"vocab", vocab},
            {"merges", merges}}}};
}

void WriteText(const std::string& path, const std::string& text) {
  AtomicFile out(path);
  out.Write(text);
  out.Commit();
}

}  // namespace

void SetTokenizer(GgufWriter& writer, const TokenizerSpec& spec, int64_t vocab) {
  const bool sentence_piece = spec.kind == Kind::kSentencePieceBpe;
  if (static_cast<int64_t>(spec.pieces.size()) > vocab) {
    Fail(ErrorCode::kData, spec.source, ": has ", spec.pieces.size(), " tokens, but the model's vocab_size is ", vocab);
  }
  std::vector<std::string> tokens(spec.pieces.begin(), spec.pieces.end());
  std::vector<int32_t> types;
  for (size_t id = 0; id < tokens.size(); ++id) types.push_back(static_cast<int32_t>(TypeOf(spec, id)));
  while (static_cast<int64_t>(tokens.size()) < vocab) {
    tokens.push_back("[PAD" + std::to_string(tokens.size()) + "]");
    types.push_back(static_cast<int32_t>(TokenType::kUnused));
  }
  writer.Set("tokenizer.ggml.model", sentence_piece ? "llama" : "gpt2");
  const std::string_view pre = sentence_piece ? "default" : PreTokenizerName(spec);
  writer.Set("tokenizer.ggml.pre", pre);
  writer.Set("tokenizer.ggml.tokens", std::span<const std::string>(tokens));
  writer.Set("tokenizer.ggml.token_type", std::span<const int32_t>(types));
  if (sentence_piece) {
    std::vector<float> scores = spec.merges.empty() ? spec.scores : ScoresFromMerges(spec);
    scores.resize(tokens.size(), -1e6f);
    writer.Set("tokenizer.ggml.scores", std::span<const float>(scores));
  } else {
    std::vector<std::string> merges;
    for (const auto& [left, right] : spec.merges) merges.push_back(std::string(left) + " " + std::string(right));
    writer.Set("tokenizer.ggml.merges", std::span<const std::string>(merges));
  }
  if (spec.normalize_nfc && pre != "qwen2") Warn(spec.source, ": normalizer NFC has no key in GGUF and is lost");
  if (!sentence_piece && spec.ignore_merges != (pre == "llama-bpe")) {
    Warn(spec.source, ": model.ignore_merges ", spec.ignore_merges ? "true" : "false",
         " has no key in GGUF and is lost");
  }
  if (!spec.added_flags.empty()) {
    Warn(spec.source, ": lstrip, rstrip and single_word of added tokens, the first ", spec.added_flags[0].id,
         ", have no key in GGUF and are lost");
  }
  const auto set_id = [&](const char* key, int32_t id) {
    // A SentencePiece file that leaves an id out means the usual one, so "none" has to be said.
    if (id >= 0 || sentence_piece) writer.Set(key, static_cast<uint32_t>(id));
  };
  set_id("tokenizer.ggml.bos_token_id", spec.bos);
  const int32_t eos = spec.eos >= 0 || spec.end_of_generation.empty() ? spec.eos : spec.end_of_generation.front();
  set_id("tokenizer.ggml.eos_token_id", eos);
  set_id("tokenizer.ggml.unknown_token_id", spec.unk);
  set_id("tokenizer.ggml.padding_token_id", spec.pad);
  std::vector<int32_t> ends;  // besides eos
  for (const int32_t id : spec.end_of_generation) {
    if (id != eos && std::ranges::find(ends, id) == ends.end()) ends.push_back(id);
  }
  if (!ends.empty()) writer.Set("tokenizer.ggml.eot_token_id", static_cast<uint32_t>(ends[0]));
  if (ends.size() > 1) writer.Set("tokenizer.ggml.eom_token_id", static_cast<uint32_t>(ends[1]));
  if (ends.size() > 2) writer.Set(kGgufEndTokens, std::span<const int32_t>(ends));
  writer.Set("tokenizer.ggml.add_bos_token", spec.add_bos);
  writer.Set("tokenizer.ggml.add_eos_token", spec.add_eos);
  writer.Set("tokenizer.ggml.add_space_prefix", spec.add_space_prefix);
  if (!spec.chat_template.empty()) writer.Set("tokenizer.chat_template", spec.chat_template);
}

void WriteTokenizerJson(const TokenizerSpec& spec, const std::string& directory) {
  WriteText(directory + "/tokenizer.json", TokenizerJson(spec).dump(1));
  ordered_json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                         {"add_bos_token", spec.add_bos},
                         {"add_eos_token", spec.add_eos},
                         {"model_input_names", ordered_json::array({"input_ids", "attention_mask"})},
                         {"clean_up_tokenization_spaces", false}};
  const auto name = [&](const char* key, int32_t id) {
    if (id >= 0) config[key] = spec.pieces[static_cast<size_t>(id)];
  };
  name("bos_token", spec.bos);
  name("eos_token", spec.eos);
  name("unk_token", spec.unk);
  name("pad_token", spec.pad);
  if (!spec.chat_template.empty()) config["chat_template"] = spec.chat_template;
  WriteText(directory + "/tokenizer_config.json", config.dump(1) + "\n");
}

}  // namespace cambium
