#include "cli/draft_view.h"

#include <iterator>

namespace cambium::cli {
namespace {

std::string Colored(int16_t origin, const std::string& text) {
  static constexpr int kColors[] = {32, 36, 35, 33, 34};  // green, cyan, magenta, yellow, blue
  constexpr int kRed = 31;
  const int code = origin < 0 ? kRed : kColors[static_cast<size_t>(origin) % std::size(kColors)];
  return "\x1b[" + std::to_string(code) + "m" + text + "\x1b[0m";
}

}  // namespace

std::string DraftView(const Model& model, const Generation& result, bool color) {
  std::string view;
  for (size_t i = 0; i < result.ids.size(); ++i) {
    const int16_t origin = result.origins[i];
    const std::string piece = model.Piece(result.ids[i]);
    if (origin == Generation::kPlain) {
      view += piece;
    } else if (color) {
      view += Colored(origin, piece);
    } else {
      view += "{" + (origin < 0 ? "!" : result.draft.drafters[static_cast<size_t>(origin)] + ":") + piece + "}";
    }
  }
  return view;
}

std::string DraftLegend(const Generation& result, bool color) {
  std::string legend = "drafted by ";
  for (size_t i = 0; i < result.draft.drafters.size(); ++i) {
    const std::string& name = result.draft.drafters[i];
    legend += (i > 0 ? ", " : "") + (color ? Colored(static_cast<int16_t>(i), name) : "{" + name + ":...}");
  }
  if (result.draft.drafters.empty()) legend = "nothing was drafted";
  return legend + "; " + (color ? Colored(Generation::kCorrected, "against a draft") : "{!...} against a draft") +
         "; the rest without one";
}

}  // namespace cambium::cli
