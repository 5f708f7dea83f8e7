#include "window/passages.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "window/passages.cc"
#include "base/simd_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace cambium {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
// Vectors of one byte have no table look-up.
int64_t Filter(const WordFinder::Tables& tables, const uint8_t* text, int64_t from, int64_t to, uint32_t* places) {
  int64_t count = 0;
  for (int64_t at = from; at < to; ++at) {
    unsigned buckets = 0xFF;
    for (int i = 0; i < 3; ++i) buckets &= tables.low[i][text[at + i] & 15] & tables.high[i][text[at + i] >> 4];
    if (buckets != 0 && !IsAsciiWordByte(text[at - 1])) places[count++] = static_cast<uint32_t>(at - from);
  }
  return count;
}
#else
// Bytes [from - 1, to + 2) may be read, and the bytes of one vector beyond only where they are inside [from, to).
int64_t Filter(const WordFinder::Tables& tables, const uint8_t* text, int64_t from, int64_t to, uint32_t* places) {
  const hn::ScalableTag<uint8_t> d;
  using V = hn::Vec<decltype(d)>;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const V low0 = hn::LoadDup128(d, tables.low[0]), high0 = hn::LoadDup128(d, tables.high[0]);
  const V low1 = hn::LoadDup128(d, tables.low[1]), high1 = hn::LoadDup128(d, tables.high[1]);
  const V low2 = hn::LoadDup128(d, tables.low[2]), high2 = hn::LoadDup128(d, tables.high[2]);
  const V half = hn::Set(d, 15);
  const auto buckets = [&](const uint8_t* at, V low, V high) HWY_ATTR {
    const V bytes = hn::LoadU(d, at);
    return hn::And(hn::TableLookupBytes(low, hn::And(bytes, half)),
                   hn::TableLookupBytes(high, hn::ShiftRight<4>(bytes)));
  };
  int64_t count = 0;
  int64_t at = from;
  for (; at + lanes <= to; at += lanes) {
    const V possible = hn::And(hn::And(buckets(text + at, low0, high0), buckets(text + at + 1, low1, high1)),
                               buckets(text + at + 2, low2, high2));
    // An unsigned x is below n where min(x, n - 1) == x.
    const V before = hn::LoadU(d, text + at - 1);
    const V letter = hn::Sub(hn::Or(before, hn::Set(d, 0x20)), hn::Set(d, 'a'));
    const V digit = hn::Sub(before, hn::Set(d, '0'));
    const auto inside =
        hn::Or(hn::Or(hn::Eq(hn::Min(letter, hn::Set(d, 25)), letter), hn::Eq(hn::Min(digit, hn::Set(d, 9)), digit)),
               hn::Eq(before, hn::Set(d, '_')));
    const auto found = hn::AndNot(inside, hn::Ne(possible, hn::Zero(d)));
    uint64_t bits[HWY_MAX_BYTES / 64 + 1] = {};
    hn::StoreMaskBits(d, found, reinterpret_cast<uint8_t*>(bits));
    for (int64_t word = 0; word * 64 < lanes; ++word) {
      for (uint64_t rest = bits[word]; rest != 0; rest &= rest - 1) {
        places[count++] = static_cast<uint32_t>(at - from + 64 * word + __builtin_ctzll(rest));
      }
    }
  }
  for (; at < to; ++at) places[count++] = static_cast<uint32_t>(at - from);
  return count;
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace cambium
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cambium {
HWY_EXPORT(Filter);

WordFinder::WordFinder(const WordMatcher& matcher) : matcher_(matcher) {
  const auto allow = [&](int place, int bucket, unsigned char byte) {
    tables_.low[place][byte & 15] |= 1 << bucket;
    tables_.high[place][byte >> 4] |= 1 << bucket;
  };
  for (size_t c = 0; c < matcher.classes().size(); ++c) {
    const std::string& word = matcher.classes()[c];
    const int bucket = static_cast<int>(c % 8);
    bool known = true;  // false from where the word ends or its bytes depend on its case
    for (int place = 0; place < 3; ++place) {
      known = known && place < static_cast<int>(word.size()) &&
              !(matcher.ignore_case() && static_cast<signed char>(word[place]) < 0);
      if (known) {
        const auto byte = static_cast<unsigned char>(word[place]);
        allow(place, bucket, byte);
        if (matcher.ignore_case() && byte >= 'a' && byte <= 'z') allow(place, bucket, byte - 32);
      } else {
        for (int i = 0; i < 16; ++i) tables_.low[place][i] |= 1 << bucket, tables_.high[place][i] |= 1 << bucket;
      }
    }
  }
}

int64_t WordFinder::Candidates(std::string_view text, int64_t from, int64_t to, uint32_t* places) const {
  int64_t count = 0;
  int64_t at = from;
  if (at == 0 && at < to) places[count++] = static_cast<uint32_t>(at++);
  const int64_t safe = std::min<int64_t>(to, static_cast<int64_t>(text.size()) - 2);
  if (at < safe) {
    const int64_t more =
        HWY_DYNAMIC_DISPATCH(Filter)(tables_, reinterpret_cast<const uint8_t*>(text.data()), at, safe, places + count);
    for (int64_t i = count; i < count + more; ++i) places[i] += static_cast<uint32_t>(at - from);
    count += more;
    at = safe;
  }
  for (; at < to; ++at) places[count++] = static_cast<uint32_t>(at - from);
  return count;
}

namespace {

bool Shorter(const Passage& a, const Passage& b) {
  return std::tuple(a.size(), a.document, a.begin) < std::tuple(b.size(), b.document, b.begin);
}

}  // namespace

std::vector<Passage> ShortestPassages(std::vector<Passage> passages, int64_t limit) {
  std::sort(passages.begin(), passages.end(), Shorter);
  std::vector<Passage> chosen;
  std::map<std::pair<int64_t, int64_t>, int64_t> taken;  // (document, begin) -> end
  for (const Passage& p : passages) {
    if (static_cast<int64_t>(chosen.size()) >= limit) break;
    const auto after = taken.lower_bound({p.document, p.begin});
    if (after != taken.end() && after->first.first == p.document && after->first.second < p.end) continue;
    if (after != taken.begin()) {
      const auto& [key, end] = *std::prev(after);
      if (key.first == p.document && end > p.begin) continue;
    }
    taken.emplace(std::pair(p.document, p.begin), p.end);
    chosen.push_back(p);
  }
  return chosen;
}

std::vector<Passage> FindPassages(std::span<const std::string_view> corpus, std::span<const std::string> terms,
                                  const PassageOptions& options) {
  if (options.limit < 1) Fail(ErrorCode::kUsage, "passage limit is ", options.limit, ", must be at least 1");
  if (options.within < 1) Fail(ErrorCode::kUsage, "passage length is ", options.within, ", must be at least 1");
  constexpr int64_t kPiece = 4 << 20;
  constexpr size_t kMost = 1 << 16;
  const WordMatcher matcher(terms, options.ignore_case);
  const WordFinder finder(matcher);
  struct Piece {
    int64_t document, from, to;
  };
  std::vector<Piece> pieces;
  for (size_t document = 0; document < corpus.size(); ++document) {
    const int64_t size = corpus[document].size();
    for (int64_t from = 0; from < size; from += kPiece) {
      pieces.push_back({static_cast<int64_t>(document), from, std::min(size, from + kPiece)});
    }
  }
  std::vector<std::vector<Passage>> found(pieces.size());
  ThreadPool(options.threads).Run(static_cast<int64_t>(pieces.size()), [&](int64_t task, int) {
    const Piece& piece = pieces[task];
    std::vector<Passage>& mine = found[task];
    MinimalPassages(corpus[piece.document], finder, piece.from, piece.to, options.within,
                    [&](int64_t begin, int64_t end) {
                      mine.push_back({piece.document, begin, end});
                      if (mine.size() <= kMost) return;
                      std::nth_element(mine.begin(), mine.begin() + kMost / 2, mine.end(), Shorter);
                      mine.resize(kMost / 2);
                    });
  });
  std::vector<Passage> all;
  for (const auto& mine : found) all.insert(all.end(), mine.begin(), mine.end());
  return ShortestPassages(std::move(all), options.limit);
}

int64_t CountLines(std::string_view text) { return std::count(text.begin(), text.end(), '\n'); }

}  // namespace cambium
#endif  // HWY_ONCE
