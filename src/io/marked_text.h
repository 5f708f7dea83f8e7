#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace cambium {

// Bytes [begin, end) of a text that come from somewhere.
struct TextMark {
  static constexpr int32_t kData = -1;  // source: data, but no message's own words: a name, a tool, a variable
  size_t begin, end;                    // equal where a content is empty
  int32_t source;                       // index of the message whose words these are, or kData
};

// A text that knows which of its bytes come from data, whatever a template did to them. Bytes without a mark are the
// template's own. Both lists are sorted and their marks lie apart.
struct MarkedText {
  std::string text;
  std::vector<TextMark> marks;
  std::vector<TextMark> generated;  // what {% generation %} wrote; over the other marks, sources unused

  MarkedText() = default;
  explicit MarkedText(std::string text) : text(std::move(text)) {}
  MarkedText(std::string text, int32_t source) : text(std::move(text)) { marks = {{0, this->text.size(), source}}; }

  size_t size() const { return text.size(); }
  size_t mark_count() const { return marks.size() + generated.size(); }
  void Append(std::string_view own) { text += own; }
  void Append(const MarkedText& other) { AppendPart(other, 0, other.size()); }
  void AppendPart(const MarkedText& other, size_t begin, size_t end);
  MarkedText Part(size_t begin, size_t end) const;
  // `part` is a view into `text`.
  MarkedText Part(std::string_view part) const {
    const auto begin = static_cast<size_t>(part.data() - text.data());
    return Part(begin, begin + part.size());
  }
  // What comes of the text when `change` is applied to its pieces between marks, which keep their marks.
  template <class F>
  MarkedText Mapped(const F& change) const {
    MarkedText out;
    std::vector<size_t> cuts = Cuts(), places;
    for (size_t i = 0; i < cuts.size(); ++i) {
      places.push_back(out.text.size());
      if (i + 1 < cuts.size()) out.text += change(std::string_view(text).substr(cuts[i], cuts[i + 1] - cuts[i]));
    }
    out.Move(*this, cuts, places);
    return out;
  }
  // `changed` was made from this text by something that moves bytes about: all of it is data if any of this is.
  MarkedText Rewritten(std::string changed) const;

 private:
  std::vector<size_t> Cuts() const;  // where marks begin and end, and both ends of the text
  void Move(const MarkedText& from, const std::vector<size_t>& cuts, const std::vector<size_t>& places);
};

}  // namespace cambium
