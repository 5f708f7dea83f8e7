#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/mapped_file.h"
#include "io/tokenizer.h"

namespace cambium {

// A corpus of token ids with its suffix array, memory-mapped: where any run of tokens occurs, in O(log n). File layout,
// little-endian: magic "CMBINDX1", u64 vocabulary hash, u64 checksum of what follows it, u64 count, i32 tokens[count]
// (documents end with -1), i32 suffixes[count] ordered by their first kOrdered tokens, then by place.
class TokenIndex {
 public:
  static constexpr int64_t kOrdered = 32;

  explicit TokenIndex(const std::string& path);  // kData where the file is not what it says

  // kUsage unless the index was made with this vocabulary.
  void CheckVocabulary(const Tokenizer& tokenizer) const;
  // kData naming the place unless every token is below `tokens`, or the end of a document.
  void CheckTokens(int64_t tokens) const;

  struct Match {
    int64_t length = 0;          // tokens that match
    int64_t begin = 0, end = 0;  // range of suffixes that start with them
  };
  // The longest suffix of `text`, at most `longest` tokens, that occurs in the corpus.
  Match LongestSuffix(std::span<const int32_t> text, int64_t longest) const;
  // Places just after at most `most` of the match's occurrences, evenly spread.
  std::vector<int64_t> Places(const Match& match, int64_t most) const;
  // The token at a place; -1 at the end of a document.
  int32_t TokenAt(int64_t place) const { return place < count_ ? tokens_[place] : -1; }
  int64_t size() const { return count_; }
  std::span<const int32_t> tokens() const { return {tokens_, static_cast<size_t>(count_)}; }
  std::span<const int32_t> suffixes() const { return {suffixes_, static_cast<size_t>(count_)}; }

 private:
  MappedFile file_;
  std::string path_;
  uint64_t vocabulary_ = 0;
  int64_t count_ = 0;
  const int32_t* tokens_ = nullptr;
  const int32_t* suffixes_ = nullptr;
};

// Identifies a vocabulary: a hash over its pieces in order, padding left out.
uint64_t VocabularyHash(const Tokenizer& tokenizer);

// Of an index's bytes behind the checksum: FNV-1a over 8-byte words in four interleaved lanes, fast enough to check
// gigabytes at load.
uint64_t TokenIndexChecksum(std::span<const uint8_t> bytes);

// Writes an index of the documents, merged into the index at `base` unless that is empty. Whole or not at all.
// kUsage beyond 2^31 - 1 tokens.
void WriteTokenIndex(const std::string& path, const Tokenizer& tokenizer,
                     const std::vector<std::vector<int32_t>>& documents, const std::string& base = "");

}  // namespace cambium
