#pragma once

#include <algorithm>
#include <array>
#include <bitset>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "io/tokenizer.h"

namespace cambium {

inline uint64_t MixHash(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

inline uint64_t HashBytes(const char* data, size_t size) {
  constexpr uint64_t kA = 0xa0761d6478bd642f, kB = 0xe7037ed1a0b428db;
  uint64_t hash = size * kB;
  uint64_t word;
  while (size > 8) {
    std::memcpy(&word, data, 8);
    hash = MixHash(hash ^ word, kA);
    data += 8, size -= 8;
  }
  if (size >= 4) {
    uint32_t first, last;
    std::memcpy(&first, data, 4);
    std::memcpy(&last, data + size - 4, 4);
    word = uint64_t{first} << 32 | last;
  } else if (size > 0) {
    word = static_cast<unsigned char>(data[0]) | static_cast<unsigned char>(data[size / 2]) << 8 |
           static_cast<unsigned char>(data[size - 1]) << 16;
  } else {
    word = 0;
  }
  return MixHash(hash ^ word, kB);
}

// Open addressing from bytes to ids; the bytes stay with the caller.
class PieceMap {
 public:
  void Reserve(size_t count) {
    size_t size = 16;
    while (size < count * 2) size *= 2;
    slots_.assign(size, Slot{0, -1});
  }
  // Returns the id already there, or -1 after inserting `id`.
  template <class BytesOf>
  int32_t Insert(std::string_view key, int32_t id, const BytesOf& bytes_of) {
    const uint64_t hash = HashBytes(key.data(), key.size());
    Slot& slot = slots_[Probe(key, hash, bytes_of)];
    if (slot.id >= 0) return slot.id;
    slot = {static_cast<uint32_t>(hash >> 32), id};
    return -1;
  }
  template <class BytesOf>
  int32_t Find(std::string_view key, const BytesOf& bytes_of) const {
    return slots_[Probe(key, HashBytes(key.data(), key.size()), bytes_of)].id;
  }

 private:
  struct Slot {
    uint32_t tag;
    int32_t id;
  };
  template <class BytesOf>
  size_t Probe(std::string_view key, uint64_t hash, const BytesOf& bytes_of) const {
    const size_t mask = slots_.size() - 1;
    const auto tag = static_cast<uint32_t>(hash >> 32);
    size_t at = hash & mask;
    while (slots_[at].id >= 0 && (slots_[at].tag != tag || bytes_of(slots_[at].id) != key)) at = (at + 1) & mask;
    return at;
  }
  std::vector<Slot> slots_;
};

struct Merge {
  uint32_t rank;  // the lower merges first
  int32_t id;     // what the two become; -1: they do not merge
};

// Open addressing from a pair of ids to its merge.
class MergeMap {
 public:
  void Reserve(size_t count) {
    size_t size = 16;
    while (size < count * 2) size *= 2;
    slots_.assign(size, Slot{kEmpty, {0, -1}});
  }
  bool empty() const { return slots_.empty(); }
  void Insert(int32_t left, int32_t right, Merge merge) {  // the first of two equal pairs stays
    Slot& slot = slots_[Probe(Key(left, right))];
    if (slot.key == kEmpty) slot = {Key(left, right), merge};
  }
  Merge Find(int32_t left, int32_t right) const { return slots_[Probe(Key(left, right))].merge; }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  struct Slot {
    uint64_t key;
    Merge merge;
  };
  static uint64_t Key(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  size_t Probe(uint64_t key) const {
    const size_t mask = slots_.size() - 1;
    size_t at = MixHash(key, 0x9E3779B97F4A7C15u) & mask;
    while (slots_[at].key != key && slots_[at].key != kEmpty) at = (at + 1) & mask;
    return at;
  }
  std::vector<Slot> slots_;
};

// Finds the added tokens in a text: the leftmost, and there the longest.
class SpecialMatcher {
 public:
  struct Match {
    size_t begin, end;
    int32_t id;  // -1: none
  };
  void Add(std::string_view text, int32_t id);
  Match Next(std::string_view text, size_t from) const;

 private:
  struct Node {
    int32_t child = -1, sibling = -1, id = -1;
    char byte = 0;
  };
  std::vector<Node> nodes_;
  std::array<int32_t, 256> roots_ = [] {
    std::array<int32_t, 256> none;
    none.fill(-1);
    return none;
  }();
  std::bitset<65536> pairs_;  // first two bytes of a token, first in the low byte
};

// Finds in a text the tokens of `all`, but only those of `user_defined` where one would take in a byte of `plain`.
class GuardedFinder {
 public:
  GuardedFinder(const SpecialMatcher& all, const SpecialMatcher& user_defined, std::string_view text,
                std::span<const Span> plain)
      : all_(all), user_defined_(user_defined), text_(text), plain_(plain) {}

  // `from` never falls from call to call.
  SpecialMatcher::Match Next(size_t from) {
    if (from >= asked_beyond_) Look(from);
    const bool user_first = user_.begin < own_.begin || (user_.begin == own_.begin && user_.end > own_.end);
    return user_first ? user_ : own_;
  }

 private:
  void Look(size_t from) {
    if (!looked_ || own_.begin < from) own_ = Between(from);
    if (!looked_ || user_.begin < from) user_ = user_defined_.Next(text_, from);
    looked_ = true;
    asked_beyond_ = std::min(own_.begin, user_.begin) + 1;
  }
  // The next token of `all` that lies between plain ranges.
  SpecialMatcher::Match Between(size_t from) {
    while (true) {
      while (range_ < plain_.size() && plain_[range_].end <= from) ++range_;
      if (range_ < plain_.size() && plain_[range_].begin <= from) {
        from = plain_[range_].end;
        continue;
      }
      const size_t end = range_ < plain_.size() ? plain_[range_].begin : text_.size();
      const auto match = all_.Next(text_.substr(0, end), from);
      if (match.id >= 0 || end == text_.size()) return match;
      from = end;
    }
  }

  const SpecialMatcher &all_, &user_defined_;
  std::string_view text_;
  std::span<const Span> plain_;
  size_t range_ = 0;         // the first plain range that may matter
  size_t asked_beyond_ = 0;  // from here on both must be looked for again
  bool looked_ = false;
  SpecialMatcher::Match own_{}, user_{};
};

struct Tokenizer::Tables {
  uint64_t serial = 0;                // which tokenizer a thread's cache belongs to
  PieceMap pieces;                    // those that merging may make
  MergeMap merges;                    // by pair of ids; empty: by score of the joined piece
  std::vector<uint32_t> score_rank;   // [vocab], where merges is empty
  std::array<int32_t, 256> byte_ids;  // piece of a single byte, -1 if there is none
  size_t longest_piece = 0;
  std::bitset<256> glues_space;  // bytes that some piece has before an inner space
  struct Matchers {
    SpecialMatcher user_defined, all;
    bool any = false;
  };
  Matchers raw, normalized;  // added tokens by the text that they are matched in
  std::vector<TokenizerSpec::AddedFlags> flags;
};

}  // namespace cambium
