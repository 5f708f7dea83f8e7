#include "io/tokenizer_pipeline.h"

#include <algorithm>

namespace cambium {
namespace {

using Json = nlohmann::json;
constexpr std::string_view kSpace = "\u2581";

class Reader {
 public:
  Reader(const JsonMembers& members, const std::function<int32_t(std::string_view)>& id_of, TokenizerSpec& spec)
      : members_(members), id_of_(id_of), spec_(spec) {}

  void Read(const Json& root) {
    ReadNormalizer(JsonMembers::Get(root, "normalizer"));
    ReadPreTokenizer(JsonMembers::Get(root, "pre_tokenizer"));
    if (!byte_level_) spec_.kind = TokenizerSpec::Kind::kSentencePieceBpe;
    if (byte_level_ && (marks_ || metaspace_)) members_.Bad("ByteLevel after spaces became U+2581 is not supported");
    if (!prepend_.empty() && prepend_ != (byte_level_ ? " " : kSpace) && !(marks_ && prepend_ == " ")) {
      members_.Bad("normalizer Prepend \"", prepend_, "\" is not supported here");
    }
    if (metaspace_ && !marks_) spec_.text.late_spaces = true;
    DropIdleCut();
    ReadPostProcessor(JsonMembers::Get(root, "post_processor"));
    ReadDecoder(JsonMembers::Get(root, "decoder"));
  }

 private:
  std::string Type(const Json& step) const { return members_.Text(step, "type", ""); }

  // The parts of a Sequence, else the step alone.
  template <class Use>
  void EachPart(const Json& step, const char* parts, Use use) {
    if (step.is_null()) return;
    if (Type(step) != "Sequence") return use(step);
    for (const Json& part : JsonMembers::Get(step, parts)) EachPart(part, parts, use);
  }

  void ReadNormalizer(const Json& normalizer) {
    EachPart(normalizer, "normalizers", [&](const Json& step) {
      const std::string type = Type(step);
      TextRules& text = spec_.text;
      if (type == "NFC") {
        text.nfc = true;
      } else if (type == "Prepend") {
        if (text.prefix != SpacePrefix::kNone) members_.Bad("normalizer Prepend comes twice");
        prepend_ = members_.Text(step, "prepend", "");
        if (prepend_.empty()) return;
        text.prefix = SpacePrefix::kDoubled;
      } else if (type == "Strip" && text.prefix == SpacePrefix::kNone && !marks_) {
        text.strip_left |= members_.Flag(step, "strip_left", true);
        text.strip_right |= members_.Flag(step, "strip_right", true);
      } else if (type == "Replace") {
        ReadReplace(step);
      } else {
        members_.Bad("normalizer \"", type, "\" is not supported", type == "Strip" ? " behind others" : "");
      }
    });
  }

  void ReadReplace(const Json& step) {
    const Json& pattern = JsonMembers::Get(step, "pattern");
    const std::string from = members_.Text(pattern, "String", ""), regex = members_.Text(pattern, "Regex", "");
    const std::string to = members_.Text(step, "content", "");
    if (from == " " && to == kSpace) {
      marks_ = true;
    } else if (regex == " {2,}" && (to == " " || to == kSpace) && prepend_.empty() && !marks_) {
      spec_.text.collapse_spaces = true;  // a single U+2581 is marked like the single spaces, where those are
    } else {
      members_.Bad("normalizer Replace \"", from, regex, "\" by \"", to, "\" is not supported");
    }
  }

  void ReadPreTokenizer(const Json& pre_tokenizer) {
    EachPart(pre_tokenizer, "pretokenizers", [&](const Json& step) {
      const std::string type = Type(step);
      if (byte_level_) members_.Bad("pre_tokenizer \"", type, "\" after ByteLevel is not supported");
      if (type == "ByteLevel") {
        byte_level_ = true;
        if (members_.Flag(step, "add_prefix_space", true)) SetPrefix(SpacePrefix::kEach, type);
        if (members_.Flag(step, "use_regex", true)) spec_.split.push_back(PreTokenizer::StepsOf("gpt-2").front());
      } else if (type == "Digits") {
        spec_.split.push_back({members_.Flag(step, "individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)"});
      } else if (type == "Metaspace") {
        ReadMetaspace(step);
      } else if (type == "Split") {
        ReadSplit(step);
      } else {
        members_.Bad("pre_tokenizer \"", type, "\" is not supported");
      }
    });
  }

  // A prefix by the pre-tokenizer goes before each word that it gets, so it has to come before any cut.
  void SetPrefix(SpacePrefix prefix, const std::string& type) {
    if (!spec_.split.empty() && prefix == SpacePrefix::kEach) {
      members_.Bad("pre_tokenizer ", type, " adds a space to words that are cut already, which is not supported");
    }
    if (spec_.text.prefix != SpacePrefix::kNone) {
      // The text begins with a space by then.
      if (spec_.text.prefix == SpacePrefix::kDoubled && prefix == SpacePrefix::kFirst) return;
      members_.Bad("pre_tokenizer ", type, " adds a second space, which is not supported");
    }
    spec_.text.prefix = prefix;
  }

  void ReadMetaspace(const Json& step) {
    const std::string replacement = members_.Text(step, "replacement", "\u2581");
    if (replacement != kSpace)
      members_.Bad("pre_tokenizer Metaspace replacement \"", replacement, "\" is not supported");
    const bool add = members_.Flag(step, "add_prefix_space", true);  // before tokenizers 0.14 there was nothing else
    const std::string scheme = members_.Text(step, "prepend_scheme", add ? "always" : "never");
    if (scheme != "always" && scheme != "never" && scheme != "first") {
      members_.Bad("pre_tokenizer Metaspace prepend_scheme \"", scheme, "\" is not known (always, never, first)");
    }
    if (!add && scheme != "never") {
      members_.Bad("pre_tokenizer Metaspace: add_prefix_space is false, but prepend_scheme \"", scheme, "\"");
    }
    if (scheme != "never") SetPrefix(scheme == "first" ? SpacePrefix::kFirst : SpacePrefix::kEach, "Metaspace");
    metaspace_ = true;
    if (members_.Flag(step, "split", true)) spec_.split.push_back(PreTokenizer::AtSpaces());
  }

  void ReadSplit(const Json& step) {
    const Json& pattern = JsonMembers::Get(step, "pattern");
    const std::string behavior = members_.Text(step, "behavior", "Isolated");
    const bool invert = members_.Flag(step, "invert", false);
    const std::string literal = members_.Text(pattern, "String", "");
    std::string regex = members_.Text(pattern, "Regex", "");
    const bool marked = marks_ || metaspace_;
    if (marked && literal == " ") return;  // there are no spaces left
    if (marked) members_.Bad("pre_tokenizer Split after spaces became U+2581 is not supported");
    if (!literal.empty() && literal.find("\\E") == literal.npos) regex = "\\Q" + literal + "\\E";
    if (regex.empty()) members_.Bad("pre_tokenizer Split has no pattern");
    const bool removed = behavior == "Removed" && invert;
    if (!removed && behavior != "Isolated") {
      members_.Bad("pre_tokenizer Split behavior \"", behavior, "\"", invert ? " inverted" : "", " is not supported");
    }
    spec_.split.push_back({regex, removed});
  }

  // Cutting at spaces changes nothing where no piece holds a space behind its beginning.
  void DropIdleCut() {
    if (spec_.split.empty() || spec_.split[0].pattern != PreTokenizer::AtSpaces().pattern) return;
    const auto glued = [](std::string_view piece) { return piece.find(kSpace, 1) != piece.npos; };
    if (std::none_of(spec_.pieces.begin(), spec_.pieces.end(), glued)) spec_.split.erase(spec_.split.begin());
  }

  // Special tokens around the text, each processor's outside of those of the one before.
  void ReadPostProcessor(const Json& post_processor) {
    EachPart(post_processor, "processors", [&](const Json& step) {
      const std::string type = Type(step);
      std::vector<int32_t> before, after;
      if (type == "TemplateProcessing") {
        ReadTemplate(step, before, after);
      } else if (type == "RobertaProcessing" || type == "BertProcessing") {
        before = {Pair(step, type, "cls")};
        after = {Pair(step, type, "sep")};
      } else if (type != "ByteLevel") {  // ByteLevel trims offsets only
        members_.Bad("post_processor \"", type, "\" is not supported");
      }
      spec_.before.insert(spec_.before.begin(), before.begin(), before.end());
      spec_.after.insert(spec_.after.end(), after.begin(), after.end());
    });
    if (spec_.before.size() == 1) spec_.bos = spec_.before[0];
    if (spec_.after.size() == 1) spec_.eos = spec_.after[0];
  }

  void ReadTemplate(const Json& step, std::vector<int32_t>& before, std::vector<int32_t>& after) {
    const Json& specials = JsonMembers::Get(step, "special_tokens");
    int texts = 0;
    for (const Json& part : JsonMembers::Get(step, "single")) {
      const Json& sequence = JsonMembers::Get(part, "Sequence");
      if (!sequence.is_null() && members_.Text(sequence, "id", "") == "A") {
        ++texts;
        continue;
      }
      const std::string name = members_.Text(JsonMembers::Get(part, "SpecialToken"), "id", "");
      if (name.empty()) members_.Bad("post_processor TemplateProcessing: single holds neither a special token nor A");
      std::vector<int32_t>& side = texts == 0 ? before : after;
      const Json& ids = JsonMembers::Get(JsonMembers::Get(specials, name.c_str()), "ids");
      if (!ids.is_array()) side.push_back(id_of_(name));
      for (const Json& id : ids) side.push_back(Id(id, "TemplateProcessing"));
    }
    if (texts != 1) members_.Bad("post_processor TemplateProcessing: single has the text ", texts, " times");
  }

  int32_t Pair(const Json& step, const std::string& type, const char* name) const {
    const Json& pair = JsonMembers::Get(step, name);
    if (!pair.is_array() || pair.size() != 2)
      members_.Bad("post_processor ", type, ": ", name, " is not a token and its id");
    return Id(pair[1], type);
  }

  int32_t Id(const Json& value, const std::string& type) const {
    const auto vocab = static_cast<int64_t>(spec_.pieces.size());
    const int64_t id = value.is_number_integer() ? value.get<int64_t>() : -1;
    if (id < 0 || id >= vocab) members_.Bad("post_processor ", type, ": an id is outside the vocabulary of ", vocab);
    return static_cast<int32_t>(id);
  }

  void ReadDecoder(const Json& decoder) {
    EachPart(decoder, "decoders", [&](const Json& step) {
      const std::string type = Type(step);
      if (type == "Strip") {
        const int64_t start = members_.Whole(step, "start", 0), stop = members_.Whole(step, "stop", 0);
        if (members_.Text(step, "content", " ") != " " || start > 1 || start < 0 || stop != 0) {
          members_.Bad("decoder Strip of more than one space before the text is not supported");
        }
        if (start == 1) spec_.text.strip = SpaceStrip::kOne;
      } else if (type == "Metaspace" && !byte_level_) {
        const bool add = members_.Flag(step, "add_prefix_space", true);
        const bool never = members_.Text(step, "prepend_scheme", add ? "always" : "never") == "never";
        if (!never) spec_.text.strip = SpaceStrip::kFirstPiece;
      } else if (type == "Replace" && !byte_level_) {
        const std::string from = members_.Text(JsonMembers::Get(step, "pattern"), "String", "");
        const std::string to = members_.Text(step, "content", "");
        if (from != kSpace || to != " ")
          members_.Bad("decoder Replace \"", from, "\" by \"", to, "\" is not supported");
      } else if (type != "Fuse" && type != "ByteFallback" && !(type == "ByteLevel" && byte_level_)) {
        members_.Bad("decoder \"", type, "\" is not supported here");
      }
    });
  }

  const JsonMembers& members_;
  const std::function<int32_t(std::string_view)>& id_of_;
  TokenizerSpec& spec_;
  std::string prepend_;
  bool byte_level_ = false;
  bool marks_ = false;      // the normalizer makes spaces U+2581
  bool metaspace_ = false;  // the pre-tokenizer does
};

}  // namespace

const Json& JsonMembers::Get(const Json& object, const char* name) {
  static const Json null;
  if (!object.is_object()) return null;
  const auto at = object.find(name);
  return at == object.end() ? null : *at;
}

std::string JsonMembers::Text(const Json& object, const char* name, const char* fallback) const {
  const Json& value = Get(object, name);
  if (value.is_null()) return fallback;
  if (!value.is_string()) Bad(name, " is not a string");
  return value.get<std::string>();
}

bool JsonMembers::Flag(const Json& object, const char* name, bool fallback) const {
  const Json& value = Get(object, name);
  if (value.is_null()) return fallback;
  if (!value.is_boolean()) Bad(name, " is not true or false");
  return value.get<bool>();
}

int64_t JsonMembers::Whole(const Json& object, const char* name, int64_t fallback) const {
  const Json& value = Get(object, name);
  if (value.is_null()) return fallback;
  const bool wraps = value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX;
  if (!value.is_number_integer() || wraps) Bad(name, " is ", value.dump(), ", expected a whole number");
  return value.get<int64_t>();
}

void ReadPipeline(const JsonMembers& members, const Json& root, const std::function<int32_t(std::string_view)>& id_of,
                  TokenizerSpec& spec) {
  Reader(members, id_of, spec).Read(root);
}

}  // namespace cambium
