#include "drafters/tree_shape.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cambium/error.h"
#include "io/json.h"

namespace cambium {

std::vector<std::vector<int32_t>> ReadTreeShape(const std::string& path, int64_t depths) {
  constexpr size_t kMostBytes = 1 << 20, kMostNodes = 1023;
  constexpr int32_t kMostRank = 63;
  const std::string text = ReadTextFile(path, kMostBytes);
  const size_t begin = text.find('['), end = text.rfind(']');
  if (begin == std::string::npos || end == std::string::npos || end < begin) {
    Fail(ErrorCode::kData, path, ": no list of paths");
  }
  std::vector<std::vector<int32_t>> nodes;
  const nlohmann::json list = ParseJson(text.substr(begin, end + 1 - begin), path);
  for (const nlohmann::json& node : list) {
    std::vector<int32_t> ranks;
    for (const nlohmann::json& rank : node.is_array() ? node : nlohmann::json::array()) {
      if (!rank.is_number_integer() || rank < 0 || rank > kMostRank) {
        Fail(ErrorCode::kData, path, ": node ", node.dump(), ": rank ", rank.dump(), ", expected 0 to ", kMostRank);
      }
      ranks.push_back(rank.get<int32_t>());
    }
    if (ranks.empty()) Fail(ErrorCode::kData, path, ": node ", node.dump(), " is no path of ranks");
    if (static_cast<int64_t>(ranks.size()) > depths) {
      Fail(ErrorCode::kData, path, ": node ", node.dump(), " is at depth ", ranks.size(), ", the heads guess ", depths);
    }
    nodes.push_back(std::move(ranks));
  }
  if (nodes.empty() || nodes.size() > kMostNodes) {
    Fail(ErrorCode::kData, path, ": ", nodes.size(), " nodes, expected 1 to ", kMostNodes);
  }
  std::sort(nodes.begin(), nodes.end(), [](const auto& a, const auto& b) {
    return a.size() != b.size() ? a.size() < b.size() : a < b;
  });
  for (size_t i = 0; i < nodes.size(); ++i) {
    const std::string shown = nlohmann::json(nodes[i]).dump();
    if (i > 0 && nodes[i] == nodes[i - 1]) Fail(ErrorCode::kData, path, ": node ", shown, " is there twice");
    const std::vector<int32_t> above(nodes[i].begin(), nodes[i].end() - 1);
    if (!above.empty() && std::find(nodes.begin(), nodes.end(), above) == nodes.end()) {
      Fail(ErrorCode::kData, path, ": node ", shown, " lacks its parent ", nlohmann::json(above).dump());
    }
  }
  return nodes;
}

std::vector<ShapeNode> BestTree(const std::vector<std::vector<double>>& accuracy, size_t nodes, bool chain) {
  std::vector<ShapeNode> tree, open;
  const auto consider = [&](std::vector<int32_t> path, double above) {
    const size_t depth = path.size() - 1, rank = static_cast<size_t>(path.back());
    if (depth < accuracy.size() && rank < accuracy[depth].size()) open.push_back({path, above * accuracy[depth][rank]});
  };
  consider({0}, 1);
  while (tree.size() < nodes && !open.empty()) {
    const auto best = std::max_element(open.begin(), open.end(),
                                       [](const ShapeNode& a, const ShapeNode& b) { return a.chance < b.chance; });
    if (best->chance <= 0) break;
    const ShapeNode node = *best;
    open.erase(best);
    tree.push_back(node);
    const size_t depth = node.path.size() - 1, rank = static_cast<size_t>(node.path.back());
    std::vector<int32_t> next = node.path;
    ++next.back();
    consider(next, node.chance / accuracy[depth][rank]);
    next.back() = static_cast<int32_t>(rank);
    next.push_back(0);
    if (!chain || rank == 0) consider(next, node.chance);
  }
  return tree;
}

}  // namespace cambium
