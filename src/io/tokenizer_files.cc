#include "io/tokenizer_files.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "cambium/error.h"
#include "cambium/warning.h"
#include "io/atomic_file.h"
#include "io/gguf_tokenizer_keys.h"
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

// Whether the scores give the merges back: each way to make a piece stands beside the others of that piece.
bool ScoresSuffice(const TokenizerSpec& spec) {
  TokenizerSpec scored = spec;
  scored.scores = ScoresFromMerges(spec);
  return MergesFromScores(scored) == spec.merges;
}

// Whether spaces become U+2581 in the pre-tokenizer, which can say more than the normalizer.
bool UsesMetaspace(const TokenizerSpec& spec) {
  const SpacePrefix prefix = spec.text.prefix;
  return spec.text.late_spaces || prefix == SpacePrefix::kEach || prefix == SpacePrefix::kFirst ||
         (!spec.split.empty() && spec.split[0].pattern == PreTokenizer::AtSpaces().pattern);
}

TokenType TypeOf(const TokenizerSpec& spec, size_t id) {
  return spec.types.empty() ? TokenType::kNormal : spec.types[id];
}

ordered_json Replace(std::string_view from, std::string_view to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

bool CutsAtSpaces(const TokenizerSpec& spec) {
  return !spec.split.empty() && spec.split[0].pattern == PreTokenizer::AtSpaces().pattern;
}

// The steps that cut words; of SentencePiece, those behind AtSpaces.
ordered_json PreTokenizerJson(const TokenizerSpec& spec) {
  const bool sentence_piece = spec.kind == Kind::kSentencePieceBpe;
  auto steps = ordered_json::array();
  const SpacePrefix prefix = spec.text.prefix;
  if (sentence_piece && UsesMetaspace(spec)) {
    const char* scheme = prefix == SpacePrefix::kEach ? "always" : prefix == SpacePrefix::kFirst ? "first" : "never";
    steps.push_back(
        {{"type", "Metaspace"}, {"replacement", kSpace}, {"prepend_scheme", scheme}, {"split", CutsAtSpaces(spec)}});
  }
  for (const SplitStep& step : spec.split) {
    if (step.pattern == PreTokenizer::AtSpaces().pattern) continue;
    if (sentence_piece) {
      steps.push_back({{"type", "Digits"}, {"individual_digits", step.pattern == R"(\p{N})"}});
      continue;
    }
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", step.pattern}}},
                     {"behavior", step.drop_gaps ? "Removed" : "Isolated"},
                     {"invert", step.drop_gaps}});
  }
  if (!sentence_piece) {
    // A space in front comes before the cut, so the cut has to be ByteLevel's own.
    const bool prefixed = prefix == SpacePrefix::kEach, cuts = prefixed && !spec.split.empty();
    if (cuts && PreTokenizerName(spec) != "gpt-2") {
      Fail(ErrorCode::kData, spec.source, ": tokenizer.json cannot say add_space_prefix with this pre_tokenizer");
    }
    if (cuts) steps.clear();
    steps.push_back(
        {{"type", "ByteLevel"}, {"add_prefix_space", prefixed}, {"trim_offsets", true}, {"use_regex", cuts}});
  }
  if (steps.empty()) return nullptr;
  if (steps.size() == 1) return steps[0];
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

ordered_json NormalizerJson(const TokenizerSpec& spec) {
  const bool sentence_piece = spec.kind == Kind::kSentencePieceBpe;
  const TextRules& text = spec.text;
  auto steps = ordered_json::array();
  if (text.nfc) steps.push_back({{"type", "NFC"}});
  if (text.strip_left || text.strip_right) {
    steps.push_back({{"type", "Strip"}, {"strip_left", text.strip_left}, {"strip_right", text.strip_right}});
  }
  if (text.collapse_spaces) {
    steps.push_back({{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", " "}});
  }
  if (text.prefix == SpacePrefix::kDoubled) {
    steps.push_back({{"type", "Prepend"}, {"prepend", sentence_piece ? kSpace : " "}});
  }
  if (sentence_piece && !text.late_spaces) steps.push_back(Replace(" ", kSpace));
  if (steps.empty()) return nullptr;
  if (steps.size() == 1) return steps[0];
  return {{"type", "Sequence"}, {"normalizers", steps}};
}

ordered_json DecoderJson(const TokenizerSpec& spec) {
  if (spec.kind != Kind::kSentencePieceBpe) {
    return {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  }
  if (spec.text.strip == SpaceStrip::kFirstPiece) {
    const ordered_json pieces = {
        {"type", "Metaspace"}, {"replacement", kSpace}, {"prepend_scheme", "always"}, {"split", true}};
    return {{"type", "Sequence"}, {"decoders", {pieces, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}}}};
  }
  auto steps = ordered_json::array({Replace(kSpace, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
  if (spec.text.strip == SpaceStrip::kOne) {
    steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  return {{"type", "Sequence"}, {"decoders", steps}};
}

// What the model adds around a text.
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
  for (int32_t id : spec.before) add(id);
  single.push_back(first);
  pair.push_back(first);
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  for (int32_t id : spec.after) add(id);
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
    const auto flags = std::find_if(spec.added_flags.begin(), spec.added_flags.end(),
                                    [&](const auto& f) { return f.id == static_cast<int32_t>(id); });
    const bool flagged = flags != spec.added_flags.end();
    added.push_back({{"id", id},
                     {"content", spec.pieces[id]},
                     {"single_word", flagged && flags->single_word},
                     {"lstrip", flagged && flags->strip_left},
                     {"rstrip", flagged && flags->strip_right},
                     {"normalized", flagged && flags->normalized},
                     {"special", type != TokenType::kUserDefined}});
  }
  const bool by_scores = sentence_piece && spec.merges.empty();
  for (const auto& [left, right] : by_scores ? MergesFromScores(spec) : spec.merges) merges.push_back({left, right});

  ordered_json unknown = nullptr;
  if (sentence_piece && spec.unk >= 0) unknown = spec.pieces[static_cast<size_t>(spec.unk)];
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", NormalizerJson(spec)},
          {"pre_tokenizer", PreTokenizerJson(spec)},
          {"post_processor", PostProcessorJson(spec)},
          {"decoder", DecoderJson(spec)},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", unknown},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", spec.fuse_unk},
            {"byte_fallback", std::count(spec.types.begin(), spec.types.end(), TokenType::kByte) > 0},
            {"ignore_merges", spec.ignore_merges},
            {"vocab", vocab},
            {"merges", merges}}}};
}

void WriteText(const std::string& path, const std::string& text) {
  AtomicFile out(path);
  out.Write(text);
  out.Commit();
}

bool HasEveryByte(const TokenizerSpec& spec) {
  return std::count(spec.types.begin(), spec.types.end(), TokenType::kByte) == 256;
}

// The rules for text that GGUF has keys for, then those that only Cambium reads.
void SetTextRules(GgufWriter& writer, const TokenizerSpec& spec, std::string_view pre) {
  const bool sentence_piece = spec.kind == Kind::kSentencePieceBpe;
  const TextRules& text = spec.text;
  const auto around = [&](const std::vector<int32_t>& ids, int32_t id, const char* key, const char* name) {
    if (!ids.empty() && (ids.size() > 1 || ids[0] != id)) {
      Fail(ErrorCode::kData, spec.source, ": post_processor adds more than ", name, ", which GGUF cannot express");
    }
    writer.Set(key, !ids.empty());
  };
  around(spec.before, spec.bos, "tokenizer.ggml.add_bos_token", "bos before the text");
  around(spec.after, spec.eos, "tokenizer.ggml.add_eos_token", "eos behind the text");
  const bool prefixed = text.prefix != SpacePrefix::kNone;
  writer.Set("tokenizer.ggml.add_space_prefix", prefixed);
  const SpacePrefix meant = !prefixed        ? SpacePrefix::kNone
                            : sentence_piece ? SpacePrefix::kDoubled
                                             : SpacePrefix::kEach;
  if (text.prefix == SpacePrefix::kDoubled && !sentence_piece) {
    Fail(ErrorCode::kData, spec.source, ": normalizer Prepend with ByteLevel has no name in GGUF");
  }
  if (text.prefix != meant) writer.Set(kSpacePrefixKey, text.prefix == SpacePrefix::kEach ? "each" : "first");
  const SpaceStrip usual = sentence_piece && prefixed ? SpaceStrip::kOne : SpaceStrip::kNone;
  if (text.strip != usual) {
    writer.Set(kSpaceStripKey, text.strip == SpaceStrip::kNone  ? "none"
                               : text.strip == SpaceStrip::kOne ? "one"
                                                                : "piece");
  }
  const bool removes = text.strip_left && text.strip_right && text.collapse_spaces;
  if (!removes && (text.strip_left || text.strip_right || text.collapse_spaces)) {
    Fail(ErrorCode::kData, spec.source, ": normalizer Strip or Replace alone has no name in GGUF");
  }
  if (removes) writer.Set("tokenizer.ggml.remove_extra_whitespaces", true);
  if (text.nfc != ImpliesNfc(pre)) writer.Set(kNfcKey, text.nfc);
  if (spec.ignore_merges != ImpliesIgnoreMerges(pre)) writer.Set(kIgnoreMergesKey, spec.ignore_merges);
  if (text.late_spaces) writer.Set(kLateSpacesKey, true);
  if (sentence_piece && CutsAtSpaces(spec)) writer.Set(kCutAtSpacesKey, true);
  if (sentence_piece && spec.split.size() > (CutsAtSpaces(spec) ? 1 : 0)) {
    Fail(ErrorCode::kData, spec.source, ": pre_tokenizer Digits with U+2581 has no name in GGUF");
  }
  if (spec.unk >= 0 && spec.fuse_unk != sentence_piece && !(sentence_piece && HasEveryByte(spec))) {
    Fail(ErrorCode::kData, spec.source, ": model.fuse_unk ", spec.fuse_unk ? "true" : "false", " has no name in GGUF");
  }
  std::vector<int32_t> flags;
  for (const auto& f : spec.added_flags) {
    const int bits = (f.strip_left ? kStripLeft : 0) | (f.strip_right ? kStripRight : 0) |
                     (f.single_word ? kSingleWord : 0) | (f.normalized ? kNormalized : 0);
    flags.insert(flags.end(), {f.id, bits});
  }
  if (!flags.empty()) writer.Set(kAddedFlagsKey, std::span<const int32_t>(flags));
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
  const bool by_merges = sentence_piece && !spec.merges.empty() && !ScoresSuffice(spec);
  if (sentence_piece) {
    std::vector<float> scores = spec.merges.empty() ? spec.scores : ScoresFromMerges(spec);
    scores.resize(tokens.size(), -1e6f);
    writer.Set("tokenizer.ggml.scores", std::span<const float>(scores));
  }
  if (by_merges) writer.Set(kByMergesKey, true);
  if (!sentence_piece || by_merges) {
    std::vector<std::string> merges;
    for (const auto& [left, right] : spec.merges) merges.push_back(std::string(left) + " " + std::string(right));
    writer.Set("tokenizer.ggml.merges", std::span<const std::string>(merges));
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
  SetTextRules(writer, spec, pre);
  std::vector<int32_t> ends;  // besides eos
  for (const int32_t id : spec.end_of_generation) {
    if (id != eos && std::ranges::find(ends, id) == ends.end()) ends.push_back(id);
  }
  if (!ends.empty()) writer.Set("tokenizer.ggml.eot_token_id", static_cast<uint32_t>(ends[0]));
  if (ends.size() > 1) writer.Set("tokenizer.ggml.eom_token_id", static_cast<uint32_t>(ends[1]));
  if (ends.size() > 2) writer.Set(kGgufEndTokens, std::span<const int32_t>(ends));
  if (!spec.chat_template.empty()) writer.Set("tokenizer.chat_template", spec.chat_template);
  std::vector<std::string> names;
  for (const auto& [name, text] : spec.named_templates) {
    names.push_back(name);
    // gguf-py's rule for names in keys.
    std::ranges::replace_if(
        names.back(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
    writer.Set(std::string(kGgufNamedTemplate) + names.back(), text);
  }
  if (!names.empty()) writer.Set(kGgufTemplateNames, std::span<const std::string>(names));
}

void WriteTokenizerJson(const TokenizerSpec& spec, const std::string& directory) {
  WriteText(directory + "/tokenizer.json", TokenizerJson(spec).dump(1));
  ordered_json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                         {"model_input_names", ordered_json::array({"input_ids", "attention_mask"})},
                         {"clean_up_tokenization_spaces", false}};
  const auto simple = [](const std::vector<int32_t>& ids, int32_t id) {
    return ids.empty() || (ids.size() == 1 && ids[0] == id);
  };
  if (simple(spec.before, spec.bos) && simple(spec.after, spec.eos)) {  // else the template alone can say it
    config["add_bos_token"] = !spec.before.empty();
    config["add_eos_token"] = !spec.after.empty();
  }
  const auto name = [&](const char* key, int32_t id) {
    if (id >= 0) config[key] = spec.pieces[static_cast<size_t>(id)];
  };
  name("bos_token", spec.bos);
  name("eos_token", spec.eos);
  name("unk_token", spec.unk);
  name("pad_token", spec.pad);
  if (!spec.chat_template.empty()) config["chat_template"] = spec.chat_template;
  if (!spec.named_templates.empty()) {
    ordered_json list = ordered_json::array();
    if (!spec.chat_template.empty()) list.push_back({{"name", "default"}, {"template", spec.chat_template}});
    for (const auto& [name, text] : spec.named_templates) list.push_back({{"name", name}, {"template", text}});
    config["chat_template"] = list;
  }
  WriteText(directory + "/tokenizer_config.json", config.dump(1) + "\n");
}

}  // namespace cambium
