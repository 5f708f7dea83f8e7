#include "io/tokenizer.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>

#include "cambium/error.h"
#include "io/tokenizer_tables.h"
#include "io/unicode.h"

namespace cambium {
namespace {

constexpr size_t kMaxPieceBytes = 64 << 10;
constexpr size_t kMaxSpecialBytes = 1024;
constexpr std::string_view kLowLine = "\xE2\x96\x81";  // U+2581, SentencePiece's space

// GPT-2's byte alphabet: printable Latin-1 bytes stand for themselves, the 68 others for U+0100 onwards.
struct ByteAlphabet {
  std::array<int16_t, 512> byte_of;  // by code point, -1 if not in the alphabet
  ByteAlphabet() {
    byte_of.fill(-1);
    int next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      byte_of[printable ? b : next++] = static_cast<int16_t>(b);
    }
  }
};

// The bytes that a piece of byte-level BPE spells; false if it has a character outside the alphabet.
bool SpellBytes(std::string_view piece, std::vector<char>& out) {
  static const ByteAlphabet alphabet;
  const size_t start = out.size();
  const char* end = piece.data() + piece.size();
  for (const char* at = piece.data(); at < end;) {
    const CodePoint c = DecodeUtf8(at, end);
    const int byte = c.valid && c.value < 512 ? alphabet.byte_of[c.value] : -1;
    if (byte < 0) {
      out.resize(start);
      return false;
    }
    out.push_back(static_cast<char>(byte));
    at += c.length;
  }
  return true;
}

void SpellSpaces(std::string_view piece, std::vector<char>& out) {
  while (true) {
    const size_t mark = piece.find(kLowLine);
    const std::string_view head = piece.substr(0, mark);
    out.insert(out.end(), head.begin(), head.end());
    if (mark == piece.npos) return;
    out.push_back(' ');
    piece.remove_prefix(mark + kLowLine.size());
  }
}

// Whether an added token's text is spelled as the model spells what it merges.
bool Spells(std::string_view text, std::string_view bytes, bool byte_level) {
  if (bytes.empty()) return false;
  if (!byte_level) return text.find(' ') == text.npos;
  std::vector<char> spelled;
  return SpellBytes(text, spelled) && std::equal(spelled.begin(), spelled.end(), bytes.begin(), bytes.end());
}

// Marks the bytes that `piece` has before an inner run of spaces.
void NoteGlue(std::string_view piece, std::bitset<256>& glues_space) {
  for (size_t k = 1; k < piece.size(); ++k) {
    if (piece[k] == ' ' && piece[k - 1] != ' ') glues_space.set(static_cast<unsigned char>(piece[k - 1]));
  }
}

// The byte of a piece <0xXX>, -1 if it is not one.
int ParseBytePiece(std::string_view piece) {
  if (piece.size() != 6 || piece.substr(0, 3) != "<0x" || piece[5] != '>') return -1;
  int value = 0;
  for (char c : piece.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

// Files name one eos, chat models end a turn with another token: adds those known by their text.
void AddEndsByName(const TokenizerSpec& spec, std::vector<int32_t>& ends) {
  for (size_t i = 0; i < spec.pieces.size(); ++i) {
    if (spec.types.empty() || spec.types[i] == TokenType::kNormal || spec.types[i] == TokenType::kByte) continue;
    for (std::string_view name : {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>",
                                  "<|end|>", "<end_of_turn>", "<EOT>", "<|eot|>", "<|eom|>"}) {
      if (spec.pieces[i] == name) ends.push_back(static_cast<int32_t>(i));
    }
  }
}

// Orders like the score, the highest first.
uint32_t RankOfScore(float score) {
  const auto bits = std::bit_cast<uint32_t>(score);
  return ~(bits & 0x80000000u ? ~bits : bits | 0x80000000u);
}

}  // namespace

void SpecialMatcher::Add(std::string_view text, int32_t id) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (text.size() == 1) {
    for (int second = 0; second < 256; ++second) pairs_.set(first | second << 8);
  } else {
    pairs_.set(first | static_cast<unsigned char>(text[1]) << 8);
  }
  int32_t* link = &roots_[first];
  int32_t node = -1;
  for (char byte : text) {
    while (*link >= 0 && nodes_[*link].byte != byte) link = &nodes_[*link].sibling;
    if (*link < 0) {
      *link = static_cast<int32_t>(nodes_.size());
      node = *link;
      nodes_.push_back({.byte = byte});  // moves the nodes: `link` is dead from here
    } else {
      node = *link;
    }
    link = &nodes_[node].child;
  }
  if (nodes_[node].id < 0) nodes_[node].id = id;
}

SpecialMatcher::Match SpecialMatcher::Next(std::string_view text, size_t from) const {
  if (nodes_.empty()) return {text.size(), text.size(), -1};
  for (size_t begin = from; begin < text.size(); ++begin) {
    const auto first = static_cast<unsigned char>(text[begin]);
    if (begin + 1 < text.size() && !pairs_[first | static_cast<unsigned char>(text[begin + 1]) << 8]) continue;
    Match match{begin, begin, -1};
    int32_t node = roots_[first];
    for (size_t at = begin; node >= 0;) {
      if (nodes_[node].id >= 0) match = {begin, at + 1, nodes_[node].id};
      if (++at == text.size()) break;
      node = nodes_[node].child;
      while (node >= 0 && nodes_[node].byte != text[at]) node = nodes_[node].sibling;
    }
    if (match.id >= 0) return match;
  }
  return {text.size(), text.size(), -1};
}

Tokenizer::Tokenizer() : tables_(std::make_unique<Tables>()) {
  static std::atomic<uint64_t> serial{0};
  tables_->serial = ++serial;
}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

size_t TokenizerSpec::TextPieces() const {
  size_t size = pieces.size();
  const auto is_padding = [&](size_t id) {
    const bool plain = types.empty() || types[id] == TokenType::kUnused || types[id] == TokenType::kNormal;
    return plain && pieces[id] == "[PAD" + std::to_string(id) + "]";
  };
  while (size > 0 && is_padding(size - 1)) --size;
  return size;
}

Tokenizer Tokenizer::FromSpec(const TokenizerSpec& spec) {
  Tokenizer t;
  t.source_ = spec.source;
  const size_t vocab = spec.pieces.size();
  if (vocab == 0) Fail(ErrorCode::kData, spec.source, ": tokenizer has no pieces");
  if (vocab > (size_t{1} << 24)) Fail(ErrorCode::kData, spec.source, ": tokenizer has ", vocab, " pieces");
  if (!spec.types.empty() && spec.types.size() != vocab) {
    Fail(ErrorCode::kData, spec.source, ": tokenizer has ", vocab, " pieces but ", spec.types.size(), " types");
  }
  if (!spec.scores.empty() && spec.scores.size() != vocab) {
    Fail(ErrorCode::kData, spec.source, ": tokenizer has ", vocab, " pieces but ", spec.scores.size(), " scores");
  }
  const auto check_id = [&](int32_t id, std::string_view name) {
    if (id < -1 || id >= static_cast<int32_t>(vocab)) {
      Fail(ErrorCode::kData, spec.source, ": tokenizer ", name, " id ", id, " is outside the vocabulary of ", vocab);
    }
    return id;
  };
  t.bos_ = check_id(spec.bos, "bos");
  t.eos_ = check_id(spec.eos, "eos");
  t.unk_ = check_id(spec.unk, "unk");
  t.pad_ = check_id(spec.pad, "pad");
  t.end_of_generation_ = spec.end_of_generation;
  if (spec.eos >= 0) t.end_of_generation_.push_back(spec.eos);
  AddEndsByName(spec, t.end_of_generation_);
  std::sort(t.end_of_generation_.begin(), t.end_of_generation_.end());
  t.end_of_generation_.erase(std::unique(t.end_of_generation_.begin(), t.end_of_generation_.end()),
                             t.end_of_generation_.end());
  for (int32_t id : t.end_of_generation_) check_id(id, "end-of-generation");
  for (const auto& flags : spec.added_flags) check_id(flags.id, "added token");
  for (int32_t id : spec.before) check_id(id, "beginning");
  for (int32_t id : spec.after) check_id(id, "ending");
  t.kind_ = spec.kind;
  t.before_ = spec.before;
  t.after_ = spec.after;
  t.rules_ = spec.text;
  t.ignore_merges_ = spec.ignore_merges;
  t.fuse_unk_ = spec.fuse_unk;
  t.chat_template_ = spec.chat_template;
  t.named_templates_ = spec.named_templates;
  t.pre_tokenizer_ = PreTokenizer::FromSteps(spec.split);
  t.tables_->flags = spec.added_flags;
  std::sort(t.tables_->flags.begin(), t.tables_->flags.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  t.types_ = spec.types;
  if (t.types_.empty()) t.types_.assign(vocab, TokenType::kNormal);
  for (const int32_t id : t.end_of_generation_) {  // no text may end a turn, whatever the file calls its token
    if (t.types_[static_cast<size_t>(id)] == TokenType::kUserDefined) t.types_[static_cast<size_t>(id)] = TokenType::kControl;
  }
  t.text_size_ = static_cast<int>(spec.TextPieces());
  t.AddPieces(spec);
  t.AddSpecials(spec);
  t.AddMerges(spec);
  return t;
}

void Tokenizer::AddPieces(const TokenizerSpec& spec) {
  Tables& tables = *tables_;
  const bool byte_level = kind_ == TokenizerSpec::Kind::kByteLevelBpe;
  size_t total = 0;
  for (std::string_view piece : spec.pieces) {
    if (piece.size() > kMaxPieceBytes) {
      Fail(ErrorCode::kData, source_, ": tokenizer piece of ", piece.size(), " bytes");
    }
    total += piece.size();
  }
  if (total > std::numeric_limits<uint32_t>::max()) {
    Fail(ErrorCode::kData, source_, ": tokenizer pieces of ", total, " bytes");
  }
  bytes_.reserve(total);
  offsets_.reserve(spec.pieces.size() + 1);
  offsets_.push_back(0);
  tables.pieces.Reserve(spec.pieces.size());
  tables.byte_ids.fill(-1);
  const auto bytes_of = [&](int32_t id) { return Piece(id); };
  for (size_t i = 0; i < spec.pieces.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const std::string_view piece = spec.pieces[i];
    const TokenType type = types_[i];
    const size_t start = bytes_.size();
    int byte = -1;
    const auto* flags = FlagsOf(id);
    if (flags != nullptr && flags->normalized) {
      const std::string normal = Normalize(piece);
      bytes_.insert(bytes_.end(), normal.begin(), normal.end());
    } else if (!byte_level && type == TokenType::kByte) {
      byte = ParseBytePiece(piece);
      if (byte < 0) Fail(ErrorCode::kData, source_, ": tokenizer byte piece ", i, " is \"", piece.substr(0, 40), "\"");
      bytes_.push_back(static_cast<char>(byte));
    } else if (!byte_level && (type == TokenType::kNormal || type == TokenType::kUserDefined)) {
      SpellSpaces(piece, bytes_);
    } else if (type != TokenType::kNormal || !SpellBytes(piece, bytes_)) {
      bytes_.insert(bytes_.end(), piece.begin(), piece.end());
    }
    offsets_.push_back(static_cast<uint32_t>(bytes_.size()));
    if (byte >= 0) tables.byte_ids[byte] = id;
    if (type != TokenType::kNormal || bytes_.size() == start) continue;
    const std::string_view spelled = Piece(id);
    const int32_t twin = tables.pieces.Insert(spelled, id, bytes_of);
    if (twin >= 0) {
      Fail(ErrorCode::kData, source_, ": tokenizer pieces ", twin, " and ", id, " are both \"", piece.substr(0, 40),
           "\"");
    }
    if (byte_level && spelled.size() == 1) tables.byte_ids[static_cast<unsigned char>(spelled[0])] = id;
    tables.longest_piece = std::max(tables.longest_piece, spelled.size());
    NoteGlue(spelled, tables.glues_space);
  }
  // A space without a piece may join the unknown characters before it.
  if (tables.pieces.Find(" ", bytes_of) < 0) tables.glues_space.set();
  // Merges may also end in an added token, such as Gemma's runs of spaces; a control token they never make.
  for (size_t i = 0; i < spec.pieces.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    if (types_[i] != TokenType::kUserDefined || !Spells(spec.pieces[i], Piece(id), byte_level)) continue;
    const std::string_view spelled = Piece(id);
    tables.pieces.Insert(spelled, id, bytes_of);
    int32_t& single = tables.byte_ids[static_cast<unsigned char>(spelled[0])];
    if (byte_level && spelled.size() == 1 && single < 0) single = id;
    tables.longest_piece = std::max(tables.longest_piece, spelled.size());
    NoteGlue(spelled, tables.glues_space);
  }
}

void Tokenizer::AddMerges(const TokenizerSpec& spec) {
  Tables& tables = *tables_;
  const auto bytes_of = [&](int32_t id) { return Piece(id); };
  if (spec.merges.empty() && kind_ == TokenizerSpec::Kind::kSentencePieceBpe) {
    if (spec.scores.empty()) Fail(ErrorCode::kData, source_, ": tokenizer has neither merges nor scores");
    tables.score_rank.reserve(spec.scores.size());
    for (float score : spec.scores) {
      if (std::isnan(score)) Fail(ErrorCode::kData, source_, ": tokenizer score ", score);
      tables.score_rank.push_back(RankOfScore(score));
    }
    return;
  }
  if (spec.merges.size() > (size_t{1} << 26)) {
    Fail(ErrorCode::kData, source_, ": tokenizer has ", spec.merges.size(), " merges");
  }
  tables.merges.Reserve(spec.merges.size());
  std::vector<char> joined;
  uint32_t rank = 0;
  for (const auto& [left, right] : spec.merges) {
    joined.clear();
    const auto spell = [&](std::string_view part) {
      if (kind_ == TokenizerSpec::Kind::kSentencePieceBpe) {
        SpellSpaces(part, joined);
      } else if (!SpellBytes(part, joined)) {
        joined.insert(joined.end(), part.begin(), part.end());
      }
      return joined.size();
    };
    const size_t cut = spell(left), size = spell(right);
    const std::string_view whole(joined.data(), size);
    const int32_t left_id = tables.pieces.Find(whole.substr(0, cut), bytes_of);
    const int32_t right_id = tables.pieces.Find(whole.substr(cut), bytes_of);
    const int32_t id = tables.pieces.Find(whole, bytes_of);
    const auto is_special = [&](std::string_view part) {
      const int32_t special = FindAdded(part);
      return special >= 0 && types_[static_cast<size_t>(special)] != TokenType::kUserDefined;
    };
    if (id < 0 && is_special(whole)) {  // plain text never becomes a control token
      ++rank;
      continue;
    }
    if (left_id < 0 || right_id < 0 || id < 0) {
      Fail(ErrorCode::kData, source_, ": tokenizer merge ", rank, " (\"", left.substr(0, 40), "\" \"",
           right.substr(0, 40), "\") names a piece that is not in the vocabulary");
    }
    tables.merges.Insert(left_id, right_id, {rank++, id});
  }
}

void Tokenizer::AddSpecials(const TokenizerSpec& spec) {
  Tables& tables = *tables_;
  for (int32_t id = 0; id < vocab_size(); ++id) {
    const TokenType type = types_[id];
    const bool user = type == TokenType::kUserDefined;
    if (!user && type != TokenType::kControl && type != TokenType::kUnknown) continue;
    const std::string_view text = spec.pieces[static_cast<size_t>(id)];
    if (text.empty()) continue;
    if (text.size() > kMaxSpecialBytes) {
      Fail(ErrorCode::kData, source_, ": tokenizer special token ", id, " has ", text.size(), " bytes");
    }
    const auto* flags = FlagsOf(id);
    const bool normalized = flags != nullptr && flags->normalized;
    Tables::Matchers& matchers = normalized ? tables.normalized : tables.raw;
    const std::string key = normalized ? Normalize(text) : std::string(text);
    if (key.empty()) continue;
    if (user) matchers.user_defined.Add(key, id);
    matchers.all.Add(key, id);
    matchers.any = true;
  }
}

const TokenizerSpec::AddedFlags* Tokenizer::FlagsOf(int32_t id) const {
  const auto& flags = tables_->flags;
  const auto at = std::lower_bound(flags.begin(), flags.end(), id, [](const auto& f, int32_t i) { return f.id < i; });
  return at != flags.end() && at->id == id ? &*at : nullptr;
}

int32_t Tokenizer::FindAdded(std::string_view text) const {
  const auto whole = [](const SpecialMatcher& matcher, std::string_view key) {
    const auto match = matcher.Next(key, 0);
    return match.begin == 0 && match.end == key.size() ? match.id : -1;
  };
  const int32_t raw = whole(tables_->raw.all, text);
  return raw >= 0 || !tables_->normalized.any ? raw : whole(tables_->normalized.all, Normalize(text));
}

std::string_view Tokenizer::Piece(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) + 1 >= offsets_.size()) {
    Fail(ErrorCode::kUsage, "token id ", id, " is outside the vocabulary of ", vocab_size());
  }
  return {bytes_.data() + offsets_[id], offsets_[id + 1] - offsets_[id]};
}

TokenType Tokenizer::Type(int32_t id) const {
  Piece(id);
  return types_[id];
}

int32_t Tokenizer::Find(std::string_view piece) const {
  const int32_t added = FindAdded(piece);
  return added >= 0 ? added : tables_->pieces.Find(piece, [&](int32_t id) { return Piece(id); });
}

const std::string& Tokenizer::NamedTemplate(std::string_view name) const {
  static const std::string none;
  const auto found = std::ranges::find(named_templates_, name, [](const auto& entry) { return entry.first; });
  return found == named_templates_.end() ? none : found->second;
}

bool Tokenizer::IsEndOfGeneration(int32_t id) const {
  return std::binary_search(end_of_generation_.begin(), end_of_generation_.end(), id);
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string out;
  SpaceStrip strip = rules_.strip;  // what is still to be dropped
  for (int32_t id : ids) {
    std::string_view piece = Piece(id);
    const TokenType type = types_[id];
    if (skip_special && (type == TokenType::kControl || type == TokenType::kUnknown)) continue;
    if (piece.empty()) continue;
    if (strip == SpaceStrip::kOne && piece[0] == ' ') piece.remove_prefix(1);
    if (strip != SpaceStrip::kFirstPiece || type != TokenType::kNormal) {
      out.append(piece);
    } else {
      std::copy_if(piece.begin(), piece.end(), std::back_inserter(out), [](char c) { return c != ' '; });
    }
    strip = SpaceStrip::kNone;
  }
  return out;
}

}  // namespace cambium
