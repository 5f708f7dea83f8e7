#include <algorithm>
#include <queue>

#include "cambium/error.h"
#include "io/tokenizer.h"
#include "io/tokenizer_tables.h"
#include "io/unicode.h"

namespace cambium {
namespace {

constexpr std::string_view kLowLine = "\xE2\x96\x81";

struct Symbol {
  int32_t id;             // -1: no piece spells it
  uint32_t begin, size;   // bytes in the word; size 0: merged into the symbol before it
  uint32_t next, before;  // neighbours, kNone at the ends
};
constexpr uint32_t kNone = ~uint32_t{0};

struct Candidate {
  uint32_t rank, left, right;
  uint32_t size;  // of the two together: tells a candidate whose parts have changed since
  int32_t id;
  bool operator<(const Candidate& other) const {  // the queue's top is the lowest rank, then the leftmost
    return rank != other.rank ? rank > other.rank : left > other.left;
  }
};

// The ids of recent words, for one thread and the tokenizer that it used last. Direct-mapped, so of fixed size.
class WordCache {
 public:
  struct alignas(64) Entry {
    static constexpr size_t kMaxBytes = 30, kMaxIds = 8;
    uint8_t size = 0, count = 0;
    char bytes[kMaxBytes];
    int32_t ids[kMaxIds];
  };
  Entry& Of(uint64_t owner, std::string_view word) {
    if (owner != owner_) {
      entries_.assign(kEntries, Entry{});
      owner_ = owner;
    }
    return entries_[HashBytes(word.data(), word.size()) & (kEntries - 1)];
  }

 private:
  static constexpr size_t kEntries = 1 << 14;
  uint64_t owner_ = 0;
  std::vector<Entry> entries_;
};

thread_local WordCache word_cache;

// The code point that ends before `at`.
CodePoint Before(std::string_view text, size_t at) {
  size_t begin = at - 1;
  while (begin > 0 && at - begin < 4 && (text[begin] & 0xC0) == 0x80) --begin;
  const CodePoint c = DecodeUtf8(text.data() + begin, text.data() + at);
  if (begin + static_cast<size_t>(c.length) == at) return c;
  return {static_cast<unsigned char>(text[at - 1]), 1, false};
}
CodePoint After(std::string_view text, size_t at) { return DecodeUtf8(text.data() + at, text.data() + text.size()); }

bool IsWord(CodePoint c) { return c.valid && IsWordCharacter(c.value); }
bool IsSpace(CodePoint c) { return ClassOf(c) == CharClass::kSpace; }

// A text in which spaces stand for U+2581, as in the pieces.
void SpellSpaces(std::string& text) {
  size_t mark = text.find(kLowLine);
  if (mark == text.npos) return;
  std::string spaced = text.substr(0, mark);
  for (size_t at = mark; at < text.size();) {
    const bool is_mark = text.compare(at, kLowLine.size(), kLowLine) == 0;
    spaced += is_mark ? ' ' : text[at];
    at += is_mark ? kLowLine.size() : 1;
  }
  text = std::move(spaced);
}

void Strip(std::string& text, bool left, bool right) {
  size_t begin = 0, end = text.size();
  while (left && begin < end && IsSpace(After(text, begin))) begin += After(text, begin).length;
  while (right && end > begin && IsSpace(Before(text, end))) end -= Before(text, end).length;
  text = text.substr(begin, end - begin);
}

}  // namespace

struct Tokenizer::Scratch {
  bool parse_special = false;
  std::vector<int32_t> out;
  std::vector<Span> words;
  std::vector<Symbol> symbols;
  std::vector<Candidate> queue;
};

std::vector<int32_t> Tokenizer::Encode(std::string_view text, bool add_special, bool parse_special) const {
  Scratch scratch;
  scratch.parse_special = parse_special;
  if (add_special) scratch.out = before_;
  EncodeWhole(text, {}, scratch);
  if (add_special) scratch.out.insert(scratch.out.end(), after_.begin(), after_.end());
  return std::move(scratch.out);
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text, std::span<const Span> plain) const {
  Scratch scratch;
  scratch.parse_special = true;
  EncodeWhole(text, plain, scratch);
  return std::move(scratch.out);
}

void Tokenizer::EncodeWhole(std::string_view text, std::span<const Span> plain, Scratch& scratch) const {
  if (text.size() >= size_t{1} << 31) Fail(ErrorCode::kUsage, "a text of ", text.size(), " bytes is too long");
  scratch.out.reserve(scratch.out.size() + text.size() / 3 + 8);
  std::vector<Span> inside;  // plain ranges of a stretch, counted from its begin
  size_t range = 0;
  CutAtAdded(text, false, plain, scratch, [&](size_t begin, size_t end) {
    inside.clear();
    while (range < plain.size() && plain[range].end <= begin) ++range;
    for (size_t i = range; i < plain.size() && plain[i].begin < end; ++i) {
      const size_t from = std::max<size_t>(plain[i].begin, begin), to = std::min<size_t>(plain[i].end, end);
      inside.push_back({static_cast<uint32_t>(from - begin), static_cast<uint32_t>(to - begin)});
    }
    EncodeStretch(text.substr(begin, end - begin), begin == 0, inside, scratch);
  });
}

// Appends the added tokens of `text` and calls use(begin, end) for what lies between them, in order. Control tokens are
// not looked for in the plain ranges.
template <class Use>
void Tokenizer::CutAtAdded(std::string_view text, bool normalized, std::span<const Span> plain, Scratch& scratch,
                           Use use) const {
  const Tables::Matchers& matchers = normalized ? tables_->normalized : tables_->raw;
  const SpecialMatcher& matcher = scratch.parse_special ? matchers.all : matchers.user_defined;
  GuardedFinder guarded(matchers.all, matchers.user_defined, text, plain);
  const bool guard = scratch.parse_special && !plain.empty();
  // A space that the normalizer made U+2581 is no white space any more.
  const bool marked = normalized && kind_ == TokenizerSpec::Kind::kSentencePieceBpe && !rules_.late_spaces;
  const auto strips = [&](CodePoint c) { return IsSpace(c) && !(marked && c.value == ' '); };
  size_t done = 0;  // everything before it is encoded
  for (size_t from = 0; from < text.size();) {
    auto [begin, end, id] = guard ? guarded.Next(from) : matcher.Next(text, from);
    if (id < 0) break;
    from = end;
    if (const auto* flags = FlagsOf(id)) {
      const bool joined = (begin > 0 && IsWord(Before(text, begin))) || (end < text.size() && IsWord(After(text, end)));
      if (flags->single_word && joined) continue;
      while (flags->strip_left && begin > done && strips(Before(text, begin))) begin -= Before(text, begin).length;
      while (flags->strip_right && end < text.size() && strips(After(text, end))) end += After(text, end).length;
    }
    if (begin > done) use(done, begin);
    scratch.out.push_back(id);
    done = end;
  }
  if (done < text.size()) use(done, text.size());
}

std::string Tokenizer::Normalize(std::string_view text) const {
  const bool prefixed = rules_.prefix == SpacePrefix::kDoubled;
  std::string out;
  if (rules_.nfc) {
    out = NormalizeNfc(text);
  } else {
    out.reserve(text.size() + 1);
    out = text;
  }
  if (rules_.strip_left || rules_.strip_right) Strip(out, rules_.strip_left, rules_.strip_right);
  if (rules_.collapse_spaces) {
    out.erase(std::unique(out.begin(), out.end(), [](char a, char b) { return a == ' ' && b == ' '; }), out.end());
  }
  if (prefixed && !out.empty()) out.insert(0, 1, ' ');
  if (kind_ == TokenizerSpec::Kind::kSentencePieceBpe && !rules_.late_spaces) SpellSpaces(out);
  return out;
}

// Where the plain ranges of `text` lie in `normalized`, its normalization; rather too wide than too narrow, where the
// normalizer joins what stands on both sides of a border.
std::vector<Span> Tokenizer::PlainAfter(std::string_view text, std::string_view normalized,
                                        std::span<const Span> plain) const {
  std::vector<Span> moved;
  for (const Span& range : plain) {
    const std::string before = Normalize(text.substr(0, range.begin)), behind = Normalize(text.substr(range.end));
    const size_t begin = static_cast<size_t>(std::ranges::mismatch(before, normalized).in1 - before.begin());
    const size_t most = std::min(behind.size(), normalized.size() - begin);
    size_t rest = 0;
    while (rest < most && behind[behind.size() - 1 - rest] == normalized[normalized.size() - 1 - rest]) ++rest;
    moved.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(normalized.size() - rest)});
  }
  return moved;
}

// Encodes what lies between two added tokens; `first` where the text begins with it.
void Tokenizer::EncodeStretch(std::string_view text, bool first, std::span<const Span> plain, Scratch& scratch) const {
  const bool byte_level = kind_ == TokenizerSpec::Kind::kByteLevelBpe;
  const bool ascii_stays = byte_level && rules_.prefix != SpacePrefix::kDoubled && !rules_.strip_left &&
                           !rules_.strip_right && !rules_.collapse_spaces;
  std::string changed;
  std::vector<Span> moved;
  if (!ascii_stays || (rules_.nfc && std::any_of(text.begin(), text.end(), [](char c) { return c & 0x80; }))) {
    changed = Normalize(text);
    if (tables_->normalized.any && !plain.empty()) {
      moved = PlainAfter(text, changed, plain);
      plain = moved;
    }
    text = changed;
  }
  if (!tables_->normalized.any) return EncodePlain(text, first, scratch);
  CutAtAdded(text, true, plain, scratch, [&](size_t begin, size_t end) {
    EncodePlain(text.substr(begin, end - begin), first && begin == 0, scratch);
  });
}

void Tokenizer::EncodePlain(std::string_view text, bool first, Scratch& scratch) const {
  const bool byte_level = kind_ == TokenizerSpec::Kind::kByteLevelBpe;
  if (text.empty()) return;
  std::string changed;
  if (!byte_level && rules_.late_spaces && text.find(kLowLine) != text.npos) {
    changed = text;
    SpellSpaces(changed);
    text = changed;
  }
  const bool prefixed = rules_.prefix == SpacePrefix::kEach || (first && rules_.prefix == SpacePrefix::kFirst);
  if (prefixed && text[0] != ' ') {
    std::string spaced(1, ' ');
    changed = std::move(spaced.append(text));
    text = changed;
  }
  std::vector<int32_t>& out = scratch.out;
  scratch.words.clear();
  pre_tokenizer_.Split(text, scratch.words);
  for (const Span& span : scratch.words) {
    const std::string_view word = text.substr(span.begin, span.end - span.begin);
    if (byte_level) {
      EncodeWord(word, scratch, out);
      continue;
    }
    // No piece reaches over the start of a run of spaces, except after the few bytes of glues_space: cutting there
    // gives the same ids and short words.
    size_t begin = 0;
    for (size_t at = 1; at < word.size(); ++at) {
      if (word[at] != ' ' || word[at - 1] == ' ') continue;
      if (tables_->glues_space[static_cast<unsigned char>(word[at - 1])]) continue;
      EncodeWord(word.substr(begin, at - begin), scratch, out);
      begin = at;
    }
    EncodeWord(word.substr(begin), scratch, out);
  }
}

void Tokenizer::EncodeWord(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
  const Tables& tables = *tables_;
  const auto bytes_of = [&](int32_t id) {
    return std::string_view(bytes_.data() + offsets_[id], offsets_[id + 1] - offsets_[id]);
  };
  const bool byte_level = kind_ == TokenizerSpec::Kind::kByteLevelBpe;
  if (word.size() == 1 && tables.byte_ids[static_cast<unsigned char>(word[0])] >= 0 && byte_level) {
    out.push_back(tables.byte_ids[static_cast<unsigned char>(word[0])]);
    return;
  }
  WordCache::Entry* entry = nullptr;
  if (word.size() <= WordCache::Entry::kMaxBytes) {
    entry = &word_cache.Of(tables.serial, word);
    if (entry->size == word.size() && std::memcmp(entry->bytes, word.data(), word.size()) == 0) {
      out.insert(out.end(), entry->ids, entry->ids + entry->count);
      return;
    }
  }
  const size_t first_out = out.size();

  const auto has_bytes = [&](std::string_view part) {
    return !byte_level && std::all_of(part.begin(), part.end(),
                                      [&](char c) { return tables.byte_ids[static_cast<unsigned char>(c)] >= 0; });
  };
  const bool by_score = !tables.score_rank.empty();
  std::vector<Symbol>& symbols = scratch.symbols;
  symbols.clear();
  const int32_t whole = ignore_merges_ ? tables.pieces.Find(word, bytes_of) : -1;
  if (whole >= 0) {
    symbols.push_back({whole, 0, static_cast<uint32_t>(word.size()), kNone, kNone});
  } else {
    const char* end = word.data() + word.size();
    for (const char* at = word.data(); at < end;) {
      const int length = byte_level ? 1 : DecodeUtf8(at, end).length;
      const int32_t id = byte_level ? tables.byte_ids[static_cast<unsigned char>(*at)]
                                    : tables.pieces.Find({at, static_cast<size_t>(length)}, bytes_of);
      // What the vocabulary lacks vanishes, and its neighbours may merge, as in Hugging Face's BPE.
      if (id >= 0 || unk_ >= 0 || by_score || has_bytes({at, static_cast<size_t>(length)})) {
        const auto index = static_cast<uint32_t>(symbols.size());
        symbols.push_back(
            {id, static_cast<uint32_t>(at - word.data()), static_cast<uint32_t>(length), index + 1, index - 1});
      }
      at += length;
    }
    if (!symbols.empty()) symbols.back().next = kNone;
  }

  const auto merge_of = [&](const Symbol& left, const Symbol& right) -> Merge {
    if (!by_score) return left.id < 0 || right.id < 0 ? Merge{0, -1} : tables.merges.Find(left.id, right.id);
    const size_t size = left.size + right.size;
    if (size > tables.longest_piece) return {0, -1};
    const int32_t id = tables.pieces.Find(word.substr(left.begin, size), bytes_of);
    return {id < 0 ? 0 : tables.score_rank[id], id};
  };
  const auto join = [&](uint32_t left, uint32_t right, int32_t id) {
    symbols[left].id = id;
    symbols[left].size += symbols[right].size;
    symbols[left].next = symbols[right].next;
    if (symbols[left].next != kNone) symbols[symbols[left].next].before = left;
    symbols[right].size = 0;
  };

  std::vector<Candidate>& queue = scratch.queue;
  queue.clear();
  const auto consider = [&](uint32_t left, uint32_t right) {
    if (left == kNone || right == kNone) return false;
    const Merge merge = merge_of(symbols[left], symbols[right]);
    if (merge.id < 0) return false;
    queue.push_back({merge.rank, left, right, symbols[left].size + symbols[right].size, merge.id});
    return true;
  };
  for (uint32_t i = 0; i + 1 < symbols.size(); ++i) consider(i, i + 1);
  std::make_heap(queue.begin(), queue.end());
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end());
    const Candidate best = queue.back();
    queue.pop_back();
    const Symbol& left = symbols[best.left];
    if (left.size == 0 || left.next != best.right || left.size + symbols[best.right].size != best.size) continue;
    join(best.left, best.right, best.id);
    if (consider(symbols[best.left].before, best.left)) std::push_heap(queue.begin(), queue.end());
    if (consider(best.left, symbols[best.left].next)) std::push_heap(queue.begin(), queue.end());
  }

  bool after_unk = false;
  for (uint32_t i = 0; i < symbols.size() && i != kNone; i = symbols[i].next) {
    const Symbol& symbol = symbols[i];
    if (symbol.id >= 0) {
      out.push_back(symbol.id);
      after_unk = false;
      continue;
    }
    const bool all_bytes = has_bytes(word.substr(symbol.begin, symbol.size));
    if (all_bytes) {
      for (uint32_t k = 0; k < symbol.size; ++k) {
        out.push_back(tables.byte_ids[static_cast<unsigned char>(word[symbol.begin + k])]);
      }
    } else if (unk_ >= 0 && !(fuse_unk_ && after_unk)) {
      out.push_back(unk_);
    }
    after_unk = !all_bytes;
  }

  const size_t count = out.size() - first_out;
  if (entry != nullptr && count <= WordCache::Entry::kMaxIds) {
    entry->size = static_cast<uint8_t>(word.size());
    entry->count = static_cast<uint8_t>(count);
    std::copy(word.begin(), word.end(), entry->bytes);
    std::copy(out.begin() + static_cast<std::ptrdiff_t>(first_out), out.end(), entry->ids);
  }
}

}  // namespace cambium
