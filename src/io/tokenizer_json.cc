#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>

#include "cambium/error.h"
#include "cambium/warning.h"
#include "io/json.h"
#include "io/known_keys.h"
#include "io/tokenizer.h"
#include "io/tokenizer_files.h"
#include "io/tokenizer_pipeline.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
constexpr size_t kMaxConfigBytes = size_t{16} << 20;

// Reads one tokenizer.json into a spec whose views point into `root` and `owned`.
class Reader : JsonMembers {
 public:
  Reader(const Json& root, const std::string& source) : JsonMembers(source), root_(root) { spec_.source = source; }

  TokenizerSpec Read() {
    if (!root_.is_object()) Bad("is not an object");
    ReadModel();
    ReadAdded();
    ReadPipeline(
        *this, root_, [&](std::string_view piece) { return IdOf(piece); }, spec_);
    const std::string unk = Text(Get(root_, "model"), "unk_token", "");
    if (!unk.empty()) spec_.unk = IdOf(unk);
    if (spec_.kind == TokenizerSpec::Kind::kSentencePieceBpe) MarkBytePieces();
    return std::move(spec_);
  }

 private:
  int32_t IdOf(std::string_view piece) const {
    const auto at = std::find(spec_.pieces.begin(), spec_.pieces.end(), piece);
    if (at == spec_.pieces.end()) Bad("token \"", piece.substr(0, 40), "\" is not in the vocabulary");
    return static_cast<int32_t>(at - spec_.pieces.begin());
  }

  int64_t Id(const Json& value, std::string_view piece) const {
    constexpr uint64_t kMaxVocab = uint64_t{1} << 24;
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= kMaxVocab) {
      Bad("id of \"", piece.substr(0, 40), "\" is ", value.dump(), ", expected 0 to ", kMaxVocab - 1);
    }
    return static_cast<int64_t>(value.get<uint64_t>());
  }

  void Place(std::string_view piece, int64_t id, TokenType type) {
    const auto index = static_cast<size_t>(id);
    if (index >= spec_.pieces.size()) {
      spec_.pieces.resize(index + 1);
      spec_.types.resize(index + 1, TokenType::kUnused);
      placed_.resize(index + 1);
    }
    if (placed_[index] && spec_.pieces[index] != piece) {
      Bad("id ", id, " belongs to both \"", spec_.pieces[index].substr(0, 40), "\" and \"", piece.substr(0, 40), "\"");
    }
    placed_[index] = true;
    spec_.pieces[index] = piece;
    spec_.types[index] = type;
  }

  void ReadModel() {
    const Json& model = Get(root_, "model");
    const std::string type = Text(model, "type", "BPE");
    if (type != "BPE") Bad("model.type \"", type, "\" is not supported (BPE)");
    if (!Text(model, "continuing_subword_prefix", "").empty() || !Text(model, "end_of_word_suffix", "").empty()) {
      Bad("model has a subword prefix or word suffix, which is not supported");
    }
    const Json& dropout = Get(model, "dropout");
    if (!dropout.is_null() && dropout != 0)
      Bad("model.dropout ", dropout.dump(), " is not supported: it draws at random");
    spec_.ignore_merges = Flag(model, "ignore_merges", false);
    spec_.fuse_unk = Flag(model, "fuse_unk", false);
    byte_fallback_ = Flag(model, "byte_fallback", false);
    const Json& vocab = Get(model, "vocab");
    if (!vocab.is_object() || vocab.empty()) Bad("model.vocab is not an object with pieces");
    const auto& members = vocab.get_ref<const Json::object_t&>();
    const size_t most = members.size() * 2 + (1 << 16);  // ids are dense; so a huge id is refused before it allocates
    for (const auto& [piece, value] : members) {
      const int64_t id = Id(value, piece);
      if (static_cast<size_t>(id) >= most) Bad("id of \"", piece.substr(0, 40), "\" is ", id, ": the ids have gaps");
      Place(piece, id, TokenType::kNormal);
    }
    const Json& merges = Get(model, "merges");
    if (!merges.is_array()) Bad("model.merges is not an array");
    spec_.merges.reserve(merges.size());
    for (const Json& merge : merges) {
      if (merge.is_string()) {
        const std::string_view text = merge.get_ref<const std::string&>();
        const size_t space = text.find(' ');
        if (space == text.npos || space == 0 || space + 1 == text.size() || text.find(' ', space + 1) != text.npos) {
          Bad("merge \"", text.substr(0, 40), "\" is not two pieces");
        }
        spec_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        spec_.merges.emplace_back(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>());
      } else {
        Bad("merge ", spec_.merges.size(), " is not two pieces");
      }
    }
  }

  void ReadAdded() {
    const Json& added = Get(root_, "added_tokens");
    if (!added.is_null() && !added.is_array()) Bad("added_tokens is not an array");
    const size_t most = spec_.pieces.size() + (added.is_array() ? added.size() : 0) + (1 << 16);
    for (const Json& token : added) {
      const Json& content = Get(token, "content");
      if (!content.is_string() || content.get_ref<const std::string&>().empty()) Bad("an added token has no content");
      const std::string& text = content.get_ref<const std::string&>();
      const int64_t id = Id(Get(token, "id"), text);
      if (static_cast<size_t>(id) >= most) Bad("id of \"", text.substr(0, 40), "\" is ", id, ": the ids have gaps");
      Place(text, id, Flag(token, "special", false) ? TokenType::kControl : TokenType::kUserDefined);
      const bool left = Flag(token, "lstrip", false), right = Flag(token, "rstrip", false);
      const bool word = Flag(token, "single_word", false);
      // transformers leaves `normalized` out for special tokens, tokenizers always writes it.
      const bool normalized = Flag(token, "normalized", !Flag(token, "special", false));
      if (left || right || word || normalized) {
        spec_.added_flags.push_back({static_cast<int32_t>(id), left, right, word, normalized});
      }
    }
    for (size_t id = 0; id < placed_.size(); ++id) {
      if (!placed_[id]) Bad("no piece has the id ", id, ": the ids have gaps");
    }
  }

  void MarkBytePieces() {
    if (!byte_fallback_) return;
    constexpr std::string_view kDigits = "0123456789ABCDEF";
    for (size_t i = 0; i < spec_.pieces.size(); ++i) {
      const std::string_view piece = spec_.pieces[i];
      if (piece.size() == 6 && piece.starts_with("<0x") && piece[5] == '>' && kDigits.find(piece[3]) != piece.npos &&
          kDigits.find(piece[4]) != piece.npos) {
        spec_.types[i] = TokenType::kByte;
      }
    }
  }

  const Json& root_;
  TokenizerSpec spec_;
  std::vector<bool> placed_;
  bool byte_fallback_ = false;
};

// tokenizer_config.json may say otherwise how an added token matches, and does so last.
void ReadAddedFlags(const Json& config, TokenizerSpec& spec) {
  const JsonMembers members(spec.source + " (tokenizer_config.json)");
  if (members.Flag(config, "split_special_tokens", false)) {
    members.Bad("split_special_tokens true is not supported: special tokens would be plain text");
  }
  const Json& tokens = JsonMembers::Get(config, "added_tokens_decoder");
  if (!tokens.is_object()) return;
  std::vector<TokenizerSpec::AddedFlags> said;
  for (const auto& [key, token] : tokens.items()) {
    const std::string content = members.Text(token, "content", "");
    const size_t id =
        key.size() < 9 && !key.empty() && key.find_first_not_of("0123456789") == key.npos ? std::stoul(key) : SIZE_MAX;
    if (id >= spec.pieces.size() || spec.pieces[id] != content) {
      members.Bad("added_tokens_decoder: token ", key, " is \"", content,
                  "\", which tokenizer.json does not have there");
    }
    const TokenizerSpec::AddedFlags flags{
        static_cast<int32_t>(id), members.Flag(token, "lstrip", false), members.Flag(token, "rstrip", false),
        members.Flag(token, "single_word", false), members.Flag(token, "normalized", false)};
    said.push_back(flags);
  }
  const auto by_id = [](const auto& a, const auto& b) { return a.id < b.id; };
  std::sort(said.begin(), said.end(), by_id);
  std::erase_if(spec.added_flags,
                [&](const auto& f) { return std::binary_search(said.begin(), said.end(), f, by_id); });
  spec.added_flags.insert(spec.added_flags.end(), said.begin(), said.end());
}

void AddTemplate(const std::string& name, const std::string& text, TokenizerSpec& spec) {
  if (name.empty() || text.empty()) {
    Fail(ErrorCode::kData, spec.source,
         " (tokenizer_config.json): chat_template: an entry lacks its name or its template");
  }
  std::erase_if(spec.named_templates, [&](const auto& entry) { return entry.first == name; });
  if (name == "default") spec.chat_template = text;
  if (name != "default") spec.named_templates.emplace_back(name, text);
}

// tokenizer_config.json or special_tokens_map.json: names of special tokens, the chat template.
void ReadConfigs(const Json& config, TokenizerSpec& spec) {
  const auto id_of = [&](std::string_view name) -> int32_t {
    const auto at = std::find(spec.pieces.begin(), spec.pieces.end(), name);
    return at == spec.pieces.end() ? -1 : static_cast<int32_t>(at - spec.pieces.begin());
  };
  const auto named = [&](const char* key, int32_t& id) {
    const auto at = config.find(key);
    if (at == config.end()) return;
    const Json& value = at->is_object() && at->contains("content") ? (*at)["content"] : *at;
    if (value.is_string()) id = id_of(value.get_ref<const std::string&>());
  };
  if (config.is_object()) {
    named("bos_token", spec.bos);
    named("eos_token", spec.eos);
    named("pad_token", spec.pad);
    const auto around = [&](const char* key, int32_t id, std::vector<int32_t>& ids) {
      const auto at = config.find(key);
      if (at == config.end() || !at->is_boolean()) return;
      ids.clear();
      if (at->get<bool>() && id >= 0) ids.push_back(id);
    };
    around("add_bos_token", spec.bos, spec.before);
    around("add_eos_token", spec.eos, spec.after);
    ReadAddedFlags(config, spec);
    const auto at = config.find("chat_template");
    if (at != config.end() && at->is_string()) spec.chat_template = at->get<std::string>();
    if (at != config.end() && at->is_array()) {
      for (const Json& entry : *at) {
        const JsonMembers members(spec.source + " (tokenizer_config.json): chat_template");
        AddTemplate(members.Text(entry, "name", ""), members.Text(entry, "template", ""), spec);
      }
    }
  }
}

// The end tokens, from the first of these that has any: generation_config.json, config.json, its text_config.
void ReadEnds(std::initializer_list<const Json*> configs, TokenizerSpec& spec) {
  for (const Json* config : configs) {
    if (!config->is_object() || config->value("eos_token_id", Json()).is_null()) continue;
    const Json& ends = (*config)["eos_token_id"];
    for (const Json& id : ends.is_array() ? ends : Json::array({ends})) {
      const int64_t value =
          WholeNumber(id, spec.source + ": eos_token_id of the configs beside it", INT32_MIN, INT32_MAX);
      if (value >= static_cast<int64_t>(spec.pieces.size())) {
        Warn(spec.source, ": eos_token_id ", value, " of the configs beside it is beyond the ", spec.pieces.size(),
             " tokens; it never comes");
      } else if (value >= 0) {  // negative: none
        spec.end_of_generation.push_back(static_cast<int32_t>(value));
      }
    }
    return;
  }
}

// The texts of a model's files; all but the first may be empty.
struct Texts {
  std::string_view tokenizer, config, special_tokens, generation, model;
};

void Visit(const Texts& texts, const std::string& source, const std::function<void(TokenizerSpec&)>& use) {
  const Json root = ParseJson(texts.tokenizer, source);
  TokenizerSpec spec = Reader(root, source).Read();
  const auto parse = [&](std::string_view text, const char* name) {
    if (text.empty()) return Json();
    return ParseJson(text, source + " (" + name + ")", {.max_bytes = kMaxConfigBytes});
  };
  const Json generation = parse(texts.generation, "generation_config.json"), model = parse(texts.model, "config.json");
  const Json config = parse(texts.config, "tokenizer_config.json");
  CheckTokenizerKeys(config, source + " (tokenizer_config.json)");
  const bool has_encoder = model.is_object() && model.value("is_encoder_decoder", Json(false)) == true;
  CheckGenerationKeys(generation, source + " (generation_config.json)", has_encoder);
  ReadConfigs(parse(texts.special_tokens, "special_tokens_map.json"), spec);
  ReadConfigs(config, spec);
  const Json inner = model.is_object() ? model.value("text_config", Json()) : Json();
  ReadEnds({&generation, &model, &inner}, spec);
  use(spec);
}

// additional_chat_templates/NAME.jinja, where transformers 5 puts templates other than the default.
std::map<std::string, std::string> AdditionalTemplates(const fs::path& directory) {
  std::map<std::string, std::string> found;
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory / "additional_chat_templates", none)) {
    if (entry.path().extension() != ".jinja") continue;
    found[entry.path().stem().string()] = ReadTextFile(entry.path().string(), kMaxConfigBytes);
  }
  return found;
}

}  // namespace

Tokenizer Tokenizer::FromJson(std::string_view json, std::string_view config, std::string_view generation_config,
                              const std::string& source) {
  Tokenizer tokenizer;
  Visit({json, config, {}, generation_config, {}}, source, [&](TokenizerSpec& spec) { tokenizer = FromSpec(spec); });
  return tokenizer;
}

void WithTokenizerJson(const std::string& path, const std::function<void(const TokenizerSpec&)>& use) {
  const auto beside = [&](const char* name) -> std::string {
    const auto other = std::filesystem::path(path).parent_path() / name;
    return std::filesystem::exists(other) ? ReadTextFile(other.string(), kMaxConfigBytes) : "";
  };
  const std::string tokenizer = ReadTextFile(path), config = beside("tokenizer_config.json");
  const std::string special_tokens = beside("special_tokens_map.json"), generation = beside("generation_config.json");
  const std::string model = beside("config.json"), chat_template = beside("chat_template.jinja");
  const std::map<std::string, std::string> others = AdditionalTemplates(fs::path(path).parent_path());
  Visit({tokenizer, config, special_tokens, generation, model}, path, [&](TokenizerSpec& spec) {
    if (!chat_template.empty()) spec.chat_template = chat_template;
    for (const auto& [name, text] : others) AddTemplate(name, text, spec);
    use(spec);
  });
}

Tokenizer Tokenizer::FromJsonFile(const std::string& path) {
  Tokenizer tokenizer;
  WithTokenizerJson(path, [&](const TokenizerSpec& spec) { tokenizer = FromSpec(spec); });
  return tokenizer;
}

}  // namespace cambium
