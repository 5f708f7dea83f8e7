#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace cambium {

// A sparse tree as Medusa's choices lists give it: each node is its path of ranks, [0, 2] being the third guess below the
// best first one. Sorted by length, then by value, so that parents come first.
//
// Reads a JSON list, or a Python file with one such list ("mc_sim_7b_63 = [[0], [0, 0], ...]"). kData naming file and node
// for a node without its parent, a repeated one, or one deeper than `depths`.
std::vector<std::vector<int32_t>> ReadTreeShape(const std::string& path, int64_t depths);

// A node of a tree that a search chose, and the chance that the text goes through it.
struct ShapeNode {
  std::vector<int32_t> path;
  double chance;
};
// The tree that brings most tokens by `accuracy` [depth][rank], each guess being right on its own (Medusa's search): the
// first n nodes are the best tree of n nodes, and 1 + the sum of their chances is what a pass is expected to bring.
// `chain`: only the best guess is gone on from.
std::vector<ShapeNode> BestTree(const std::vector<std::vector<double>>& accuracy, size_t nodes, bool chain);

}  // namespace cambium
