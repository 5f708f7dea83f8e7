#include "cli/draft_tree.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/options.h"

namespace cambium::cli {
namespace {

constexpr double kColumn = 118, kLine = 30, kBoxWidth = 92, kBoxHeight = 22, kMargin = 14;

std::string Escaped(std::string text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n') {
      out += "\u21b5";
    } else if (c == '&' || c == '<' || c == '>' || c == '"') {
      out += fmt::format("&#{};", static_cast<int>(c));
    } else {
      out += c;
    }
  }
  return out;
}

struct Picture {
  std::string edges, boxes;
  void Box(double x, double y, const std::string& text, const char* style) {
    boxes += fmt::format(
        "<rect class=\"{}\" x=\"{:.0f}\" y=\"{:.0f}\" width=\"{:.0f}\" height=\"{:.0f}\" rx=\"4\"/>"
        "<text x=\"{:.0f}\" y=\"{:.0f}\">{}</text>\n",
        style, x, y - kBoxHeight / 2, kBoxWidth, kBoxHeight, x + kBoxWidth / 2, y + 4, text);
  }
  void Edge(double x, double y, double to_x, double to_y, const char* style) {
    const double middle = (x + kBoxWidth + to_x) / 2;
    edges += fmt::format("<path class=\"{}\" d=\"M{:.0f} {:.0f} C{:.0f} {:.0f} {:.0f} {:.0f} {:.0f} {:.0f}\"/>\n",
                         style, x + kBoxWidth, y, middle, y, middle, to_y, to_x, to_y);
  }
};

}  // namespace

std::string DraftTreeSvg(const Model& model, const DraftTrace& pass) {
  // A node stands on its first child's line; every leaf takes a line of its own, the drawn token too.
  const size_t count = pass.nodes.size();
  std::vector<int32_t> depths;
  int32_t end = -1;  // the last accepted node
  for (size_t i = 0; i < count; ++i) {
    const DraftTrace::Node& node = pass.nodes[i];
    depths.push_back(node.parent < 0 ? 0 : depths[static_cast<size_t>(node.parent)] + 1);
    if (node.accepted) end = static_cast<int32_t>(i);
  }
  std::vector<double> line(count + 1, -1);
  double lines = 0, drawn_line = 0;
  const auto place = [&](const auto& self, int32_t node) -> double {
    double own = -1;
    for (size_t child = static_cast<size_t>(node + 1); child < count; ++child) {
      if (pass.nodes[child].parent != node) continue;
      const double at = self(self, static_cast<int32_t>(child));
      if (own < 0) own = at;
    }
    if (node == end) {
      drawn_line = lines++;
      if (own < 0) own = drawn_line;
    }
    if (own < 0) own = lines++;
    return line[static_cast<size_t>(node + 1)] = own;
  };
  place(place, -1);
  const auto x_of = [&](int32_t depth) { return kMargin + kColumn * static_cast<double>(depth); };
  const auto y_of = [&](double at) { return kMargin + kBoxHeight / 2 + kLine * at; };

  Picture picture;
  picture.Box(x_of(0), y_of(line[0]), Escaped(model.Detokenize({&pass.root, 1})), "taken");
  for (size_t i = 0; i < count; ++i) {
    const DraftTrace::Node& node = pass.nodes[i];
    const bool taken = node.accepted;
    picture.Edge(x_of(depths[i]), y_of(line[static_cast<size_t>(node.parent + 1)]), x_of(depths[i] + 1),
                 y_of(line[i + 1]), taken ? "on" : "off");
    picture.Box(
        x_of(depths[i] + 1), y_of(line[i + 1]),
        fmt::format("{} <tspan class=\"p\">{:.2f}</tspan>", Escaped(model.Detokenize({&node.id, 1})), node.probability),
        taken ? "taken" : "left");
  }
  const int32_t depth = end < 0 ? 0 : depths[static_cast<size_t>(end)] + 1;
  picture.Edge(x_of(depth), y_of(line[static_cast<size_t>(end + 1)]), x_of(depth + 1), y_of(drawn_line), "on");
  picture.Box(x_of(depth + 1), y_of(drawn_line), Escaped(model.Detokenize({&pass.drawn, 1})), "drawn");

  int32_t deepest = depth + 1;
  for (const int32_t d : depths) deepest = std::max(deepest, d + 1);
  const double width = x_of(deepest) + kBoxWidth + kMargin, height = 2 * kMargin + kLine * lines;
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
             "height=\"{1:.0f}\" font-family=\"monospace\" font-size=\"12\">\n"
             "<style>rect{{stroke:#888;fill:#fff}}.taken{{fill:#d6f0d0;stroke:#2a7a1f}}.drawn{{fill:#fde2c4;"
             "stroke:#b35900}}path{{fill:none;stroke:#bbb}}.on{{stroke:#2a7a1f;stroke-width:2}}text{{text-anchor:"
             "middle;white-space:pre}}.p{{fill:#777;font-size:10px}}</style>\n"
             "<rect width=\"100%\" height=\"100%\" style=\"stroke:none\"/>\n",
             width, height) +
         picture.edges + picture.boxes + "</svg>\n";
}

}  // namespace cambium::cli
