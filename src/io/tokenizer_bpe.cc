#include <algorithm>
#include <queue>

#include "io/tokenizer.h"
#include "cambium/error.h"
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

bool IsWordCharacter(std::string_view text, size_t at) {
  const auto c = static_cast<unsigned char>(text[at]);
  return c >= 0x80 || c == '_' || ClassOf(c) == CharClass::kLetter || ClassOf(c) == CharClass::kNumber;
}

bool IsAsciiSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

}  // namespace

struct Tokenizer::Scratch {
  std::vector<Span> words;
  std::vector<Symbol> symbols;
  std::vector<Candidate> queue;
};

std::vector<int32_t> Tokenizer::Encode(std::string_view text, bool add_special, bool parse_special) const {
  std::vector<int32_t> out;
  if (add_special && add_bos_ && bos_ >= 0) out.push_back(bos_);
  const SpecialMatcher& matcher = parse_special ? tables_->all_special : tables_->user_defined;
  EncodeAround(text, [&](size_t from) { return matcher.Next(text, from); }, out);
  if (add_special && add_eos_ && eos_ >= 0) out.push_back(eos_);
  return out;
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text, std::span<const Span> plain) const {
  std::vector<int32_t> out;
  GuardedFinder finder(tables_->all_special, tables_->user_defined, text, plain);
  EncodeAround(text, [&](size_t from) { return finder.Next(from); }, out);
  return out;
}

// `next` gives the first special token from a place on.
template <class Next>
void Tokenizer::EncodeAround(std::string_view text, Next next, std::vector<int32_t>& out) const {
  if (text.size() >= size_t{1} << 31) Fail(ErrorCode::kUsage, "a text of ", text.size(), " bytes is too long");
  out.reserve(text.size() / 3 + 8);
  Scratch scratch;
  size_t done = 0;  // everything before it is encoded
  size_t from = 0;  // where to look for the next special token
  while (done < text.size()) {
    auto match = next(from);
    if (match.id >= 0 && !tables_->flags.empty()) {
      const auto& flags = tables_->flags;
      const auto flag =
          std::lower_bound(flags.begin(), flags.end(), match.id, [](const auto& f, int32_t id) { return f.id < id; });
      if (flag != flags.end() && flag->id == match.id) {
        if (flag->single_word && ((match.begin > 0 && IsWordCharacter(text, match.begin - 1)) ||
                                  (match.end < text.size() && IsWordCharacter(text, match.end)))) {
          from = match.end;
          continue;
        }
        while (flag->strip_left && match.begin > done && IsAsciiSpace(text[match.begin - 1])) --match.begin;
        while (flag->strip_right && match.end < text.size() && IsAsciiSpace(text[match.end])) ++match.end;
      }
    }
    if (match.begin > done) EncodePlain(text.substr(done, match.begin - done), scratch, out);
    if (match.id >= 0) out.push_back(match.id);
    done = from = match.end;
  }
}

void Tokenizer::EncodePlain(std::string_view text, Scratch& scratch, std::vector<int32_t>& out) const {
  const bool byte_level = kind_ == TokenizerSpec::Kind::kByteLevelBpe;
  std::string changed;
  if (normalize_nfc_ && std::any_of(text.begin(), text.end(), [](char c) { return c & 0x80; })) {
    changed = NormalizeNfc(text);
    text = changed;
  }
  if (add_space_prefix_ && !(byte_level && text[0] == ' ')) {
    changed = " " + std::string(text);
    text = changed;
  }
  if (!byte_level && text.find(kLowLine) != text.npos) {  // pieces hold spaces here
    std::string spaced;
    spaced.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      const bool mark = text.compare(at, kLowLine.size(), kLowLine) == 0;
      spaced += mark ? ' ' : text[at];
      at += mark ? kLowLine.size() : 1;
    }
    changed = std::move(spaced);
    text = changed;
  }
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
      // A byte that the vocabulary lacks vanishes, and its neighbours may merge, as in Hugging Face's BPE.
      if (!byte_level || id >= 0 || unk_ >= 0) {
        const auto index = static_cast<uint32_t>(symbols.size());
        symbols.push_back(
            {id, static_cast<uint32_t>(at - word.data()), static_cast<uint32_t>(length), index + 1, index - 1});
      }
      at += length;
    }
    if (!symbols.empty()) symbols.back().next = kNone;
  }

  const auto merge_of = [&](const Symbol& left, const Symbol& right) -> Merge {
    if (left.id < 0 || right.id < 0) {
      if (byte_level || tables.score_rank.empty()) return {0, -1};
    }
    if (tables.score_rank.empty()) return tables.merges.Find(left.id, right.id);
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

  for (uint32_t i = 0; i < symbols.size() && i != kNone; i = symbols[i].next) {
    const Symbol& symbol = symbols[i];
    if (symbol.id >= 0) {
      out.push_back(symbol.id);
      continue;
    }
    bool all_bytes = !byte_level;
    for (uint32_t k = 0; k < symbol.size && all_bytes; ++k) {
      all_bytes = tables.byte_ids[static_cast<unsigned char>(word[symbol.begin + k])] >= 0;
    }
    if (all_bytes) {
      for (uint32_t k = 0; k < symbol.size; ++k) {
        out.push_back(tables.byte_ids[static_cast<unsigned char>(word[symbol.begin + k])]);
      }
    } else if (unk_ >= 0) {
      out.push_back(unk_);
    }
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
