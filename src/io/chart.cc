#include "io/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace cambium {
namespace {

constexpr double kWidth = 720, kHeight = 400, kLeft = 60, kRight = 20, kTop = 30, kBottom = 45;

// Ticks at 1, 2 or 5 times a power of ten.
double Tick(double range) {
  const double raw = range / 6, unit = std::pow(10, std::floor(std::log10(raw)));
  return unit * (raw / unit <= 1 ? 1 : raw / unit <= 2 ? 2 : raw / unit <= 5 ? 5 : 10);
}

struct Range {
  double low = INFINITY, high = -INFINITY;
  void Add(double value) { low = std::min(low, value), high = std::max(high, value); }
  void Widen() {
    if (low > high) low = 0, high = 1;
    if (low == high) low -= 0.5, high += 0.5;
  }
};

std::string One(const Chart& chart, double top) {
  const auto scaled = [&](double x) { return chart.log_x ? std::log2(x) : x; };
  Range xs, ys;
  for (const ChartSeries& series : chart.series) {
    for (const auto& [x, y] : series.points) xs.Add(scaled(x)), ys.Add(y);
  }
  xs.Widen();
  ys.Widen();
  const double margin = 0.05 * (ys.high - ys.low);
  ys.low -= margin, ys.high += margin;
  const auto px = [&](double x) {
    return kLeft + (kWidth - kLeft - kRight) * (scaled(x) - xs.low) / (xs.high - xs.low);
  };
  const auto py = [&](double y) {
    return top + kTop + (kHeight - kTop - kBottom) * (ys.high - y) / (ys.high - ys.low);
  };

  std::string svg;
  const double y_tick = Tick(ys.high - ys.low);
  for (double y = std::ceil(ys.low / y_tick) * y_tick; y <= ys.high; y += y_tick) {
    svg += fmt::format(
        "<line x1=\"{0:.0f}\" x2=\"{1:.0f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\" stroke=\"#ddd\"/>"
        "<text x=\"{3:.0f}\" y=\"{4:.1f}\" text-anchor=\"end\">{5:.3g}</text>\n",
        kLeft, kWidth - kRight, py(y), kLeft - 6, py(y) + 4, std::fabs(y) < 1e-9 * y_tick ? 0.0 : y);
  }
  const double x_tick = chart.log_x ? 1 : std::max(1e-9, Tick(xs.high - xs.low));
  for (double at = std::ceil(xs.low / x_tick) * x_tick; at <= xs.high; at += x_tick) {
    const double x = chart.log_x ? std::exp2(at) : at;
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.0f}\" text-anchor=\"middle\">{:g}</text>\n", px(x),
                       top + kHeight - kBottom + 16, x);
  }
  svg += fmt::format("<text x=\"{:.0f}\" y=\"{:.0f}\" text-anchor=\"middle\">{}</text>\n",
                     (kLeft + kWidth - kRight) / 2, top + kHeight - 8, chart.x_label);
  double label_at = kLeft;
  for (const ChartSeries& series : chart.series) {
    std::string points;
    for (const auto& [x, y] : series.points) {
      points += fmt::format("{}{:.1f},{:.1f}", points.empty() ? "" : " ", px(x), py(y));
    }
    svg += fmt::format("<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"{:g}\" points=\"{}\"/>\n", series.color,
                       series.width, points);
    for (const auto& [x, y] : series.points) {
      if (!series.dots) break;
      svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", px(x), py(y), series.color);
    }
    if (series.label.empty()) continue;
    svg += fmt::format("<text x=\"{:.0f}\" y=\"{:.0f}\" fill=\"{}\">{}</text>\n", label_at, top + 18, series.color,
                       series.label);
    label_at += 7.0 * static_cast<double>(series.label.size()) + 20;
  }
  return svg;
}

}  // namespace

std::string ChartSvg(std::span<const Chart> charts) {
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
      kWidth, kHeight * static_cast<double>(charts.size()));
  for (size_t i = 0; i < charts.size(); ++i) svg += One(charts[i], kHeight * static_cast<double>(i));
  return svg + "</svg>\n";
}

}  // namespace cambium
