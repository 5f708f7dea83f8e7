#include "io/token_index.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "io/atomic_file.h"

namespace cambium {
namespace {

constexpr char kMagic[8] = {'C', 'M', 'B', 'I', 'N', 'D', 'X', '1'};
constexpr int32_t kEnd = -1;
constexpr uint64_t kFnvBasis = 14695981039346656037u, kFnvPrime = 1099511628211u;

// The index's order: the first kOrdered tokens, a document's end before every token; then the place.
struct SuffixOrder {
  std::span<const int32_t> tokens;
  bool operator()(int32_t a, int32_t b) const {
    for (int64_t i = 0; i < TokenIndex::kOrdered; ++i) {
      const size_t x = static_cast<size_t>(a + i), y = static_cast<size_t>(b + i);
      const int32_t left = x < tokens.size() ? tokens[x] : kEnd, right = y < tokens.size() ? tokens[y] : kEnd;
      if (left != right) return left < right;
      if (left == kEnd) break;
    }
    return a < b;
  }
};

template <class T>
void WriteSpan(AtomicFile& file, std::span<const T> values) {
  file.Write({reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()});
}

template <class T>
void AppendBytes(std::vector<uint8_t>& out, std::span<const T> values) {
  const uint8_t* begin = reinterpret_cast<const uint8_t*>(values.data());
  out.insert(out.end(), begin, begin + values.size_bytes());
}

}  // namespace

uint64_t TokenIndexChecksum(std::span<const uint8_t> bytes) {
  uint64_t lanes[4] = {kFnvBasis, kFnvBasis + 1, kFnvBasis + 2, kFnvBasis + 3};
  size_t i = 0;
  for (; i + 32 <= bytes.size(); i += 32) {
    for (size_t lane = 0; lane < 4; ++lane) {
      uint64_t word;
      std::memcpy(&word, bytes.data() + i + 8 * lane, 8);
      lanes[lane] = (lanes[lane] ^ word) * kFnvPrime;
      lanes[lane] ^= lanes[lane] >> 29;
    }
  }
  uint64_t hash = kFnvBasis;
  for (const uint64_t lane : lanes) hash = (hash ^ lane) * kFnvPrime;
  for (; i < bytes.size(); ++i) hash = (hash ^ bytes[i]) * kFnvPrime;
  return hash;
}

uint64_t VocabularyHash(const Tokenizer& tokenizer) {
  uint64_t hash = kFnvBasis;
  for (int32_t id = 0; id < tokenizer.text_size(); ++id) {
    for (const char c : tokenizer.Piece(id)) hash = (hash ^ static_cast<uint8_t>(c)) * kFnvPrime;
    hash = (hash ^ 0x1ff) * kFnvPrime;
  }
  return hash;
}

TokenIndex::TokenIndex(const std::string& path) : file_(path), path_(path) {
  constexpr size_t kHeader = 32;
  const std::span<const uint8_t> bytes = file_.bytes();
  if (bytes.size() < kHeader || std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) != 0) {
    Fail(ErrorCode::kData, path, ": not a corpus index; `cambium corpus build` makes one");
  }
  uint64_t checksum, count;
  std::memcpy(&vocabulary_, bytes.data() + 8, 8);
  std::memcpy(&checksum, bytes.data() + 16, 8);
  std::memcpy(&count, bytes.data() + 24, 8);
  if (count > static_cast<uint64_t>(std::numeric_limits<int32_t>::max()) || bytes.size() != kHeader + 8 * count) {
    Fail(ErrorCode::kData, path, ": count ", count, " does not fit a file of ", bytes.size(), " bytes");
  }
  if (TokenIndexChecksum(bytes.subspan(24)) != checksum) {
    Fail(ErrorCode::kData, path, ": checksum differs; the index is corrupt");
  }
  file_.CheckIntact();
  count_ = static_cast<int64_t>(count);
  tokens_ = reinterpret_cast<const int32_t*>(bytes.data() + kHeader);
  suffixes_ = tokens_ + count_;
  for (int64_t i = 0; i < count_; ++i) {
    if (suffixes_[i] < 0 || suffixes_[i] >= count_) Fail(ErrorCode::kData, path, ": suffix ", i, " is ", suffixes_[i]);
  }
}

void TokenIndex::CheckVocabulary(const Tokenizer& tokenizer) const {
  if (VocabularyHash(tokenizer) != vocabulary_) {
    Fail(ErrorCode::kUsage, path_, ": the index was built with another vocabulary than the model's");
  }
  for (int64_t i = 0; i < count_; ++i) {
    if (tokens_[i] < tokenizer.vocab_size()) continue;
    Fail(ErrorCode::kData, path_, ": token ", i, " is ", tokens_[i], ", the vocabulary has ", tokenizer.vocab_size());
  }
}

void TokenIndex::CheckTokens(int64_t tokens) const {
  for (int64_t i = 0; i < count_; ++i) {
    if (tokens_[i] >= kEnd && tokens_[i] < tokens) continue;
    Fail(ErrorCode::kData, path_, ": token ", i, " is ", tokens_[i], ", the model has ", tokens);
  }
}

TokenIndex::Match TokenIndex::LongestSuffix(std::span<const int32_t> text, int64_t longest) const {
  // If the last n tokens occur, so do the last n - 1: search n by bisection, its range by the order of the suffixes.
  const auto range = [&](int64_t length) {
    const std::span<const int32_t> pattern = text.last(static_cast<size_t>(length));
    const auto compare = [&](int32_t suffix) {  // of the suffix's first tokens with the pattern
      for (int64_t i = 0; i < length; ++i) {
        const int32_t token = TokenAt(suffix + i);
        if (token != pattern[static_cast<size_t>(i)]) return token < pattern[static_cast<size_t>(i)] ? -1 : 1;
      }
      return 0;
    };
    const int32_t* end = suffixes_ + count_;
    const int32_t* low = std::partition_point(suffixes_, end, [&](int32_t s) { return compare(s) < 0; });
    const int32_t* high = std::partition_point(low, end, [&](int32_t s) { return compare(s) == 0; });
    return Match{low < high ? length : 0, low - suffixes_, high - suffixes_};
  };
  Match best;
  int64_t low = 1, high = std::min({longest, kOrdered, static_cast<int64_t>(text.size())});
  while (low <= high) {
    const int64_t middle = (low + high) / 2;
    if (const Match match = range(middle); match.length > 0) {
      best = match;
      low = middle + 1;
    } else {
      high = middle - 1;
    }
  }
  return best;
}

std::vector<int64_t> TokenIndex::Places(const Match& match, int64_t most) const {
  std::vector<int64_t> places;
  const int64_t all = match.end - match.begin, count = std::min(all, most);
  for (int64_t i = 0; i < count; ++i) places.push_back(suffixes_[match.begin + i * all / count] + match.length);
  return places;
}

void WriteTokenIndex(const std::string& path, const Tokenizer& tokenizer,
                     const std::vector<std::vector<int32_t>>& documents, const std::string& base) {
  std::vector<int32_t> tokens, suffixes;
  if (!base.empty()) {
    const TokenIndex old(base);
    old.CheckVocabulary(tokenizer);
    tokens.assign(old.tokens().begin(), old.tokens().end());
    suffixes.assign(old.suffixes().begin(), old.suffixes().end());
  }
  const size_t before = tokens.size();
  for (const std::vector<int32_t>& document : documents) {
    if (tokens.size() + document.size() + 1 > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
      Fail(ErrorCode::kUsage, path, ": more than 2^31 - 1 tokens");
    }
    tokens.insert(tokens.end(), document.begin(), document.end());
    tokens.push_back(kEnd);
  }
  suffixes.resize(tokens.size());
  std::iota(suffixes.begin() + static_cast<int64_t>(before), suffixes.end(), static_cast<int32_t>(before));
  // Old places compare as before: a document's end keeps every comparison inside its document.
  const SuffixOrder order{tokens};
  std::sort(suffixes.begin() + static_cast<int64_t>(before), suffixes.end(), order);
  std::inplace_merge(suffixes.begin(), suffixes.begin() + static_cast<int64_t>(before), suffixes.end(), order);

  const uint64_t count = tokens.size();
  std::vector<uint8_t> body;
  AppendBytes(body, std::span(&count, 1));
  AppendBytes(body, std::span<const int32_t>(tokens));
  AppendBytes(body, std::span<const int32_t>(suffixes));
  const uint64_t header[2] = {VocabularyHash(tokenizer), TokenIndexChecksum(body)};
  AtomicFile file(path);
  file.Write(std::string_view(kMagic, sizeof(kMagic)));
  WriteSpan(file, std::span<const uint64_t>(header));
  file.Write(body);
  file.Commit();
}

}  // namespace cambium
