#include "decode/drafter.h"

namespace cambium {

int32_t Draft::Child(int32_t parent, int32_t token) const {
  for (size_t i = static_cast<size_t>(parent + 1); i < nodes.size(); ++i) {
    if (nodes[i].parent == parent && nodes[i].token == token) return static_cast<int32_t>(i);
  }
  return -1;
}

int32_t Draft::Add(int32_t parent, int32_t token, float probability, uint8_t drafter) {
  if (const int32_t found = Child(parent, token); found >= 0) return found;
  nodes.push_back({token, parent, probability, drafter});
  return static_cast<int32_t>(nodes.size()) - 1;
}

std::vector<int32_t> Draft::Depths() const {
  std::vector<int32_t> depths;
  for (const Node& node : nodes) {
    depths.push_back(node.parent < 0 ? 0 : depths[static_cast<size_t>(node.parent)] + 1);
  }
  return depths;
}

const std::vector<Draft::Share>* Draft::Proposal(int32_t node) const {
  const size_t row = static_cast<size_t>(node + 1);
  return row < proposals.size() && !proposals[row].empty() ? &proposals[row] : nullptr;
}

}  // namespace cambium
