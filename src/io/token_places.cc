#include "io/token_places.h"

#include <algorithm>
#include <string>

#include "io/unicode.h"

namespace cambium {
namespace {

constexpr std::string_view kLowLine = "\xE2\x96\x81";  // U+2581, SentencePiece's space

// Lays tokens along a text.
class Layer {
 public:
  explicit Layer(std::string_view text) : text_(text) {}

  Span Lay(std::string_view piece) {
    size_t begin = at_, end = Spelled(piece, at_);
    // A space that the tokenizer put in front.
    if (end == kNot && piece.starts_with(' ')) end = Spelled(piece.substr(1), at_);
    if (end == kNot) Skip(piece, begin, end);
    at_ = end;
    return {static_cast<uint32_t>(begin), static_cast<uint32_t>(end)};
  }
  Span LayUnknown() {
    const size_t begin = at_;
    if (at_ < text_.size())
      at_ += static_cast<size_t>(DecodeUtf8(text_.data() + at_, text_.data() + text_.size()).length);
    return {static_cast<uint32_t>(begin), static_cast<uint32_t>(at_)};
  }
  size_t lost() const { return lost_; }  // tokens that did not follow the one before

 private:
  static constexpr size_t kNot = ~size_t{0};

  // Over bytes that the tokenizer dropped, or an unknown character that was longer than thought.
  void Skip(std::string_view piece, size_t& begin, size_t& end) {
    constexpr size_t kFar = 512;
    ++lost_;
    for (size_t far = 1; end == kNot && far <= kFar && at_ + far < text_.size(); ++far) {
      begin = at_ + far;
      end = Spelled(piece, begin);
    }
    if (end == kNot) begin = end = at_;
  }

  // Where the piece ends if it is spelled from `from` on.
  size_t Spelled(std::string_view piece, size_t from) const {
    if (text_.substr(from).starts_with(piece)) return from + piece.size();
    for (const char c : piece) {
      const std::string_view rest = text_.substr(from);
      if (rest.starts_with(c)) {
        ++from;
      } else if (c == ' ' && rest.starts_with(kLowLine)) {
        from += kLowLine.size();
      } else {
        return kNot;
      }
    }
    return from;
  }

  std::string_view text_;
  size_t at_ = 0, lost_ = 0;
};

// A stretch of text that normalisation changes apart from the rest: it begins with an ASCII character, with which
// nothing before combines.
struct Stretch {
  size_t normal_begin, raw_begin;
  bool changed;
};

std::vector<Stretch> Normalize(std::string_view text, std::string& normal) {
  std::vector<Stretch> stretches;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = begin + 1;
    while (end < text.size() && (text[end] & 0x80) != 0) ++end;
    const std::string_view raw = text.substr(begin, end - begin);
    const std::string changed = end - begin > 1 ? NormalizeNfc(raw) : std::string(raw);
    stretches.push_back({normal.size(), begin, changed != raw});
    normal += changed;
    begin = end;
  }
  stretches.push_back({normal.size(), text.size(), false});
  return stretches;
}

size_t RawPlace(const std::vector<Stretch>& stretches, size_t at, bool is_end) {
  const auto next = std::upper_bound(stretches.begin(), stretches.end(), at,
                                     [](size_t a, const Stretch& s) { return a < s.normal_begin; });
  const Stretch& own = next[-1];
  if (!own.changed || at == own.normal_begin) return own.raw_begin + (at - own.normal_begin);
  return is_end ? next->raw_begin : own.raw_begin;
}

std::vector<Span> LayAll(const Tokenizer& tokenizer, std::string_view text, std::span<const int32_t> ids,
                         size_t& lost) {
  Layer layer(text);
  std::vector<Span> places;
  places.reserve(ids.size());
  for (const int32_t id : ids) {
    places.push_back(id == tokenizer.unk() ? layer.LayUnknown() : layer.Lay(tokenizer.Piece(id)));
  }
  lost = layer.lost();
  return places;
}

}  // namespace

std::vector<Span> TokenPlaces(const Tokenizer& tokenizer, std::string_view text, std::span<const int32_t> ids) {
  size_t lost = 0;
  std::vector<Span> places = LayAll(tokenizer, text, ids, lost);
  if (lost == 0) return places;
  // Then the tokenizer normalises.
  std::string normal;
  const std::vector<Stretch> stretches = Normalize(text, normal);
  size_t still_lost = 0;
  std::vector<Span> moved = LayAll(tokenizer, normal, ids, still_lost);
  if (still_lost >= lost) return places;
  for (Span& place : moved) {
    const auto begin = static_cast<uint32_t>(RawPlace(stretches, place.begin, false));
    place = {begin, std::max(begin, static_cast<uint32_t>(RawPlace(stretches, place.end, true)))};
  }
  return moved;
}

}  // namespace cambium
