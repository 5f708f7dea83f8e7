#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

namespace cambium {

struct ChartSeries {
  std::string label;  // shown above the chart in the line's colour; empty = not named
  std::string color;
  double width = 2;
  bool dots = false;
  std::vector<std::pair<double, double>> points;  // (x, y), by x; finite
};

struct Chart {
  std::string x_label;
  std::vector<ChartSeries> series;
  bool log_x = false;  // by powers of two; every x > 0
};

// Line charts one below another, as an SVG file that needs nothing else.
std::string ChartSvg(std::span<const Chart> charts);

}  // namespace cambium
