#include "io/marked_text.h"

#include <algorithm>

namespace cambium {
namespace {

using Marks = std::vector<TextMark>;

// Appends those of `from` that lie in [begin, end), moved so that `begin` comes to `at`.
void AppendMarks(Marks& to, const Marks& from, size_t begin, size_t end, size_t at) {
  auto mark = std::lower_bound(from.begin(), from.end(), begin, [](const TextMark& m, size_t b) { return m.end < b; });
  for (; mark != from.end() && mark->begin <= end; ++mark) {
    const size_t first = std::max(begin, mark->begin), last = std::min(end, mark->end);
    // A mark that only touches the part is left behind, unless one of the two is empty.
    if (first == last && begin != end && mark->begin != mark->end) continue;
    const TextMark moved{first - begin + at, last - begin + at, mark->source};
    if (!to.empty() && to.back().source == moved.source && to.back().end == moved.begin) {
      to.back().end = moved.end;
    } else {
      to.push_back(moved);
    }
  }
}

// The one source of all marks, or kData.
int32_t CommonSource(const Marks& marks) {
  const auto same = [&](const TextMark& mark) { return mark.source == marks[0].source; };
  return std::all_of(marks.begin(), marks.end(), same) ? marks[0].source : TextMark::kData;
}

}  // namespace

void MarkedText::AppendPart(const MarkedText& other, size_t begin, size_t end) {
  AppendMarks(marks, other.marks, begin, end, text.size());
  AppendMarks(generated, other.generated, begin, end, text.size());
  text.append(other.text, begin, end - begin);
}

MarkedText MarkedText::Part(size_t begin, size_t end) const {
  MarkedText part;
  part.AppendPart(*this, begin, end);
  return part;
}

MarkedText MarkedText::Rewritten(std::string changed) const {
  MarkedText out(std::move(changed));
  if (!marks.empty()) out.marks = {{0, out.size(), CommonSource(marks)}};
  if (!generated.empty()) out.generated = {{0, out.size(), TextMark::kData}};
  return out;
}

std::vector<size_t> MarkedText::Cuts() const {
  std::vector<size_t> cuts = {0, text.size()};
  for (const Marks* list : {&marks, &generated}) {
    for (const TextMark& mark : *list) cuts.insert(cuts.end(), {mark.begin, mark.end});
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  return cuts;
}

void MarkedText::Move(const MarkedText& from, const std::vector<size_t>& cuts, const std::vector<size_t>& places) {
  const auto moved = [&](size_t at) {
    return places[static_cast<size_t>(std::lower_bound(cuts.begin(), cuts.end(), at) - cuts.begin())];
  };
  for (const TextMark& mark : from.marks) marks.push_back({moved(mark.begin), moved(mark.end), mark.source});
  for (const TextMark& mark : from.generated) generated.push_back({moved(mark.begin), moved(mark.end), mark.source});
}

}  // namespace cambium
