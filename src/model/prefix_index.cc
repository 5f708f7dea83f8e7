// The prefix index of the KV cache: a radix tree of pages.
#include <algorithm>

#include "base/check.h"
#include "model/kv_cache.h"

namespace cambium {

uint64_t KvCache::Hash(int32_t parent, std::span<const int32_t> tokens) {
  uint64_t hash = 0x9E3779B97F4A7C15u ^ static_cast<uint32_t>(parent);
  for (const int32_t token : tokens) {
    hash = (hash ^ static_cast<uint32_t>(token)) * 0xD6E8FEB86659FD93u;
    hash ^= hash >> 32;
  }
  return hash;
}

int32_t KvCache::Root(uint64_t key) {
  const auto found = roots_.find(key);
  return found != roots_.end() ? found->second : roots_[key] = AddNode(-1, -1, {});
}

int32_t KvCache::Child(int32_t parent, std::span<const int32_t> tokens) const {
  const auto [begin, end] = by_tokens_.equal_range(Hash(parent, tokens));
  for (auto at = begin; at != end; ++at) {
    const Node& node = nodes_[static_cast<size_t>(at->second)];
    if (node.parent == parent &&
        std::ranges::equal(tokens, std::span(node.tokens).first(static_cast<size_t>(node.count)))) {
      return at->second;
    }
  }
  return -1;
}

std::pair<int32_t, int32_t> KvCache::Closest(int32_t parent, std::span<const int32_t> tokens) const {
  std::pair<int32_t, int32_t> best = {-1, 0};
  for (const int32_t child : nodes_[static_cast<size_t>(parent)].children) {
    const Node& node = nodes_[static_cast<size_t>(child)];
    const int32_t most = std::min(node.count, static_cast<int32_t>(tokens.size()));
    int32_t same = 0;
    while (same < most && node.tokens[static_cast<size_t>(same)] == tokens[static_cast<size_t>(same)]) ++same;
    if (same > best.second) best = {child, same};
  }
  return best;
}

int64_t KvCache::Known(uint64_t key, std::span<const int32_t> tokens) const {
  const auto root = roots_.find(key);
  if (root == roots_.end()) return 0;
  int32_t node = root->second;
  size_t at = 0;
  while (tokens.size() - at >= kPageSlots) {
    const int32_t child = Child(node, tokens.subspan(at, kPageSlots));
    if (child < 0) break;
    node = child;
    at += kPageSlots;
  }
  return static_cast<int64_t>(at) + Closest(node, tokens.subspan(at)).second;
}

int64_t KvCache::Attach(Id id, uint64_t key, std::span<const int32_t> tokens) {
  Sequence& s = At(id);
  Check(s.length == 0 && s.pages.empty(), "only an empty sequence attaches");
  s.key = key;
  const auto root = roots_.find(key);
  if (root == roots_.end()) return 0;
  const auto take = [&](int32_t node, int64_t slots) {
    const int32_t page = nodes_[static_cast<size_t>(node)].page;
    if (Idle(node)) {
      --idle_;
      Delist(node);
    }
    ++uses_[static_cast<size_t>(page)];
    s.pages.push_back(page);
    s.length += slots;
    Touch(node);
  };
  int32_t node = root->second;
  while (static_cast<int64_t>(tokens.size()) - s.length >= kPageSlots) {
    const int32_t child = Child(node, tokens.subspan(static_cast<size_t>(s.length), kPageSlots));
    if (child < 0) break;
    take(child, kPageSlots);
    s.path.push_back(child);
    node = child;
  }
  // Of the next page its beginning, copied when the sequence grows.
  const auto [child, same] = Closest(node, tokens.subspan(static_cast<size_t>(s.length)));
  if (child >= 0) take(child, same);
  return s.length;
}

void KvCache::Publish(Id id, uint64_t key, std::span<const int32_t> tokens, bool last) {
  Sequence& s = At(id);
  Check(static_cast<int64_t>(tokens.size()) <= s.length, "what is published was committed");
  Check(s.path.empty() || s.key == key, "a sequence is published under one key");
  s.key = key;
  int32_t node = s.path.empty() ? Root(key) : s.path.back();
  for (size_t at = s.path.size() * kPageSlots; at + kPageSlots <= tokens.size(); at += kPageSlots) {
    const std::span<const int32_t> held = tokens.subspan(at, kPageSlots);
    int32_t& page = s.pages[at / kPageSlots];
    int32_t child = Child(node, held);
    if (const int32_t begun = node_of_[static_cast<size_t>(page)]; child < 0 && begun >= 0) {
      child = begun;  // a fork that ended inside the page made its beginning known
      Unhash(begun);
      nodes_[static_cast<size_t>(begun)].count = kPageSlots;
      std::ranges::copy(held, nodes_[static_cast<size_t>(begun)].tokens.begin());
      by_tokens_.emplace(Hash(node, held), begun);
    } else if (child < 0) {
      child = AddNode(node, page, held);
    } else if (const int32_t known = nodes_[static_cast<size_t>(child)].page; known != page) {
      if (Idle(child)) {
        --idle_;
        Delist(child);
      }
      ++uses_[static_cast<size_t>(known)];
      ReleasePage(std::exchange(page, known));
    }
    Touch(child);
    DropCovered(node, child);
    s.path.push_back(child);
    node = child;
  }
  const std::span<const int32_t> rest = tokens.subspan(s.path.size() * kPageSlots);
  if (!last || rest.empty()) return;
  const auto [closest, same] = Closest(node, rest);
  if (closest >= 0 && same == static_cast<int32_t>(rest.size())) {
    Touch(closest);
    return;
  }
  int32_t page = s.pages[s.path.size()];
  if (node_of_[static_cast<size_t>(page)] >= 0) return;  // another's beginning, to which nothing was added
  const int32_t child = AddNode(node, page, rest);
  Touch(child);
  DropCovered(node, child);
}

void KvCache::Forget() {
  while (!evictable_.empty()) RemoveNode(evictable_.begin()->second);
}

int32_t KvCache::AddNode(int32_t parent, int32_t page, std::span<const int32_t> tokens) {
  int32_t index = static_cast<int32_t>(nodes_.size());
  if (free_nodes_.empty()) {
    nodes_.emplace_back();
  } else {
    index = free_nodes_.back();
    free_nodes_.pop_back();
  }
  Node& node = nodes_[static_cast<size_t>(index)];
  node = Node();
  node.page = page;
  node.parent = parent;
  node.count = static_cast<int32_t>(tokens.size());
  std::ranges::copy(tokens, node.tokens.begin());
  if (page < 0) return index;
  ++uses_[static_cast<size_t>(page)];
  node_of_[static_cast<size_t>(page)] = index;
  by_tokens_.emplace(Hash(parent, tokens), index);
  Delist(parent);
  nodes_[static_cast<size_t>(parent)].children.push_back(index);
  return index;
}

void KvCache::RemoveNode(int32_t index) {
  Node& node = nodes_[static_cast<size_t>(index)];
  Check(node.children.empty(), "only a leaf of the index is removed");
  Delist(index);
  if (node.page >= 0) {
    if (Idle(index)) --idle_;
    Unhash(index);
    node_of_[static_cast<size_t>(node.page)] = -1;
    if (--uses_[static_cast<size_t>(node.page)] == 0) free_pages_.push_back(node.page);
    const int32_t parent = node.parent;
    std::erase(nodes_[static_cast<size_t>(parent)].children, index);
    Enlist(parent);
    const bool bare =
        nodes_[static_cast<size_t>(parent)].page < 0 && nodes_[static_cast<size_t>(parent)].children.empty();
    if (bare && std::erase_if(roots_, [&](const auto& root) { return root.second == parent; }) > 0) RemoveNode(parent);
  }
  nodes_[static_cast<size_t>(index)] = Node();
  free_nodes_.push_back(index);
}

void KvCache::Unhash(int32_t index) {
  const Node& node = nodes_[static_cast<size_t>(index)];
  const auto [begin, end] =
      by_tokens_.equal_range(Hash(node.parent, std::span(node.tokens).first(static_cast<size_t>(node.count))));
  const auto found = std::find_if(begin, end, [&](const auto& entry) { return entry.second == index; });
  if (found != end) by_tokens_.erase(found);
}

// Removes a begun page whose tokens are the beginning of the child's.
void KvCache::DropCovered(int32_t parent, int32_t child) {
  const Node& whole = nodes_[static_cast<size_t>(child)];
  for (const int32_t other : nodes_[static_cast<size_t>(parent)].children) {
    const Node& node = nodes_[static_cast<size_t>(other)];
    if (other == child || node.count >= whole.count || !Idle(other) || !node.children.empty() ||
        !std::equal(node.tokens.begin(), node.tokens.begin() + node.count, whole.tokens.begin())) {
      continue;
    }
    RemoveNode(other);
    return;  // there is one at most: each was dropped when its longer one came
  }
}

void KvCache::Touch(int32_t node) {
  Delist(node);
  nodes_[static_cast<size_t>(node)].used = ++clock_;
  Enlist(node);
}

bool KvCache::Idle(int32_t node) const {
  const int32_t page = nodes_[static_cast<size_t>(node)].page;
  return page >= 0 && uses_[static_cast<size_t>(page)] == 1;
}

void KvCache::Enlist(int32_t node) {
  if (Idle(node) && nodes_[static_cast<size_t>(node)].children.empty()) {
    evictable_.emplace(nodes_[static_cast<size_t>(node)].used, node);
  }
}

void KvCache::Delist(int32_t node) { evictable_.erase({nodes_[static_cast<size_t>(node)].used, node}); }

}  // namespace cambium
