#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/pretokenizer.h"

namespace cambium {

class GgufFile;

// What a token is, numbered as GGUF's tokenizer.ggml.token_type.
enum class TokenType : uint8_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

// Which stretches of text, between added tokens, get a space in front.
enum class SpacePrefix : uint8_t {
  kNone,
  kDoubled,  // each, also one that begins with a space: Llama 2's normalizer Prepend, GGUF's add_space_prefix
  kEach,     // each that does not begin with a space: Metaspace `always`, ByteLevel's add_prefix_space
  kFirst,    // the beginning of the text, unless it is a space: Metaspace `first`
};

// What decoding drops where the text begins.
enum class SpaceStrip : uint8_t {
  kNone,
  kOne,         // one space: the decoder Strip
  kFirstPiece,  // all spaces of the first piece: the decoder Metaspace
};

// What happens to a text before it is cut into words.
struct TextRules {
  bool nfc = false;
  bool strip_left = false, strip_right = false, collapse_spaces = false;  // SentencePiece's remove_extra_whitespaces
  bool late_spaces = false;  // spaces become U+2581 after `normalized` tokens were matched: Metaspace
  SpacePrefix prefix = SpacePrefix::kNone;
  SpaceStrip strip = SpaceStrip::kNone;
};

// What a tokenizer file says, independent of its format. Views must outlive Tokenizer::FromSpec and no longer.
struct TokenizerSpec {
  enum class Kind {
    kByteLevelBpe,      // pieces spell bytes in GPT-2's alphabet
    kSentencePieceBpe,  // pieces are UTF-8 with U+2581 for a space; unknown characters become <0xXX> byte pieces
  };
  struct AddedFlags {  // how tokenizer.json lets an added token match
    int32_t id;
    bool strip_left, strip_right, single_word;
    bool normalized;  // matched after the normalizer, where no other added token is
  };

  std::string source;  // file name, for error messages
  Kind kind = Kind::kByteLevelBpe;
  std::vector<std::string_view> pieces;  // the id is the index
  std::vector<TokenType> types;          // empty: all normal
  std::vector<float> scores;             // kSentencePieceBpe without merges: the higher merges first
  std::vector<std::pair<std::string_view, std::string_view>> merges;  // the earlier merges first
  std::vector<SplitStep> split;
  std::vector<AddedFlags> added_flags;
  bool ignore_merges = false;  // a word that is a piece is that piece
  bool fuse_unk = false;       // neighbours that are unknown become one `unk`
  TextRules text;
  int32_t bos = -1, eos = -1, unk = -1, pad = -1;
  std::vector<int32_t> before, after;      // what a text gets around it: [bos], [eos], or what a template says
  std::vector<int32_t> end_of_generation;  // besides eos, as the file states them
  std::string chat_template;
  // Others by name, as files have them beside the default: "tool_use" serves dialogues with tools.
  std::vector<std::pair<std::string, std::string>> named_templates;

  // Pieces without the last ones that a converter wrote to fill up the embedding's rows: "[PAD1234]" with that id.
  size_t TextPieces() const;
};

TokenizerSpec TokenizerSpecFromGguf(const GgufFile& file);
// tokenizer.ggml.NAME_token_id, `fallback` where it is absent; -1 (none) for a negative id and for 2^32 - 1.
int32_t GgufTokenId(const GgufFile& file, std::string_view name, int32_t fallback);
// The end tokens besides eos that a GGUF file states.
std::vector<int32_t> GgufEndTokens(const GgufFile& file);

// Text to token ids and back. Immutable after construction and safe to share between threads.
//
// Bytes that are not UTF-8 are encoded all the same: byte-level BPE takes them as they are, SentencePiece BPE through
// its byte pieces; so Decode(Encode(x)) gives x back unless the vocabulary lacks a byte (then `unk` if there is one).
class Tokenizer {
 public:
  static Tokenizer FromSpec(const TokenizerSpec& spec);
  static Tokenizer FromGguf(const GgufFile& file) { return FromSpec(TokenizerSpecFromGguf(file)); }
  // A Hugging Face tokenizer.json, with tokenizer_config.json, special_tokens_map.json, generation_config.json,
  // config.json (its end tokens) and chat_template.jinja beside it where they exist.
  static Tokenizer FromJsonFile(const std::string& path);
  // The same from texts; `config` and `generation_config` may be empty.
  static Tokenizer FromJson(std::string_view json, std::string_view config, std::string_view generation_config,
                            const std::string& source);

  // `add_special` adds what the model wants before and after a text, such as bos. `parse_special` reads control tokens
  // such as
  // <|im_end|> out of the text; without it they are plain text, as input from a user must be. Tokens that are not
  // control, like <think>, are read in both cases.
  std::vector<int32_t> Encode(std::string_view text, bool add_special, bool parse_special) const;

  // Control tokens are read out of the text, but none that would take in a byte of `plain` (what users wrote: sorted
  // ranges that lie apart). Nothing is added.
  std::vector<int32_t> Encode(std::string_view text, std::span<const Span> plain) const;

  // The bytes of the ids; use Utf8Stream where the result must be UTF-8. kUsage for an id outside the vocabulary.
  std::string Decode(std::span<const int32_t> ids, bool skip_special = false) const;

  // The bytes that one id adds to the text (a control token's own name).
  std::string_view Piece(int32_t id) const;
  TokenType Type(int32_t id) const;
  int32_t Find(std::string_view piece) const;  // the id whose bytes are `piece`, special tokens first; -1: none

  int vocab_size() const { return static_cast<int>(types_.size()); }
  // Tokens that text can hold: without the padding at the end (TokenizerSpec::TextPieces). Others are never drawn.
  int text_size() const { return text_size_; }
  int32_t bos() const { return bos_; }  // -1: none
  int32_t eos() const { return eos_; }
  int32_t pad() const { return pad_; }
  int32_t unk() const { return unk_; }
  bool add_bos() const { return std::find(before_.begin(), before_.end(), bos_) != before_.end(); }
  bool IsEndOfGeneration(int32_t id) const;
  const std::vector<int32_t>& end_of_generation() const { return end_of_generation_; }
  const std::string& chat_template() const { return chat_template_; }  // empty: none
  const std::string& NamedTemplate(std::string_view name) const;       // besides the default; empty: none

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

 private:
  struct Tables;
  struct Scratch;
  Tokenizer();
  void AddPieces(const TokenizerSpec& spec);
  void AddMerges(const TokenizerSpec& spec);
  void AddSpecials(const TokenizerSpec& spec);
  const TokenizerSpec::AddedFlags* FlagsOf(int32_t id) const;  // null: none
  int32_t FindAdded(std::string_view text) const;
  std::string Normalize(std::string_view text) const;
  std::vector<Span> PlainAfter(std::string_view text, std::string_view normalized, std::span<const Span> plain) const;
  void EncodeWhole(std::string_view text, std::span<const Span> plain, Scratch& scratch) const;
  template <class Use>
  void CutAtAdded(std::string_view text, bool normalized, std::span<const Span> plain, Scratch& scratch, Use use) const;
  void EncodeStretch(std::string_view text, bool first, std::span<const Span> plain, Scratch& scratch) const;
  void EncodePlain(std::string_view text, bool first, Scratch& scratch) const;
  void EncodeWord(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const;

  std::unique_ptr<Tables> tables_;
  PreTokenizer pre_tokenizer_;
  TokenizerSpec::Kind kind_ = TokenizerSpec::Kind::kByteLevelBpe;
  std::string source_;
  std::vector<char> bytes_;        // all pieces, one after another
  std::vector<uint32_t> offsets_;  // [vocab + 1] into bytes_
  std::vector<TokenType> types_;
  int text_size_ = 0;
  int32_t bos_ = -1, eos_ = -1, unk_ = -1, pad_ = -1;
  std::vector<int32_t> before_, after_;
  bool ignore_merges_ = false, fuse_unk_ = false;
  TextRules rules_;
  std::vector<int32_t> end_of_generation_;
  std::string chat_template_;
  std::vector<std::pair<std::string, std::string>> named_templates_;
};

// The tokenizer of a model: a GGUF file's, or a Hugging Face directory's tokenizer.json.
Tokenizer LoadTokenizer(const std::string& model_path);

}  // namespace cambium
