#include "grammar/vocabulary.h"

#include <algorithm>
#include <numeric>

namespace cambium {

Vocabulary::Vocabulary(std::vector<std::string> pieces, std::vector<int32_t> ends)
    : pieces_(std::move(pieces)), ends_(std::move(ends)), same_(pieces_.size(), -1) {
  std::vector<int32_t> order(pieces_.size());
  std::iota(order.begin(), order.end(), 0);
  std::erase_if(order, [&](int32_t id) { return piece(id).empty(); });
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return piece(a) < piece(b); });
  const auto add = [&](uint8_t byte) {
    byte_.push_back(byte);
    end_.push_back(0);
    token_.push_back(-1);
    return static_cast<int32_t>(byte_.size()) - 1;
  };
  std::vector<int32_t> path = {add(0)};  // nodes along the last piece
  const auto leave = [&](size_t depth) {
    for (; path.size() > depth; path.pop_back()) end_[static_cast<size_t>(path.back())] = nodes();
  };
  std::string_view last;
  for (const int32_t id : order) {
    const std::string_view text = piece(id);
    longest_ = std::max(longest_, static_cast<int64_t>(text.size()));
    const auto common = std::mismatch(text.begin(), text.end(), last.begin(), last.end()).first - text.begin();
    leave(static_cast<size_t>(common) + 1);
    for (const char byte : text.substr(static_cast<size_t>(common))) path.push_back(add(static_cast<uint8_t>(byte)));
    int32_t& token = token_[static_cast<size_t>(path.back())];
    same_[static_cast<size_t>(id)] = token;
    token = id;
    last = text;
  }
  leave(0);
  FindPlain();
}

void Vocabulary::FindPlain() {
  plain_below_.assign(byte_.size(), 1);
  for (int32_t node = nodes() - 1; node >= 0; --node) {
    for (int32_t child = node + 1; child < end(node); child = end(child)) {
      if (!IsPlain(byte(child)) || !plain_below(child)) plain_below_[static_cast<size_t>(node)] = 0;
    }
  }
  plain_.assign(1, TokenSet(tokens()));
  for (int32_t id = 0; id < tokens(); ++id) {
    const std::string_view text = piece(id);
    if (text.empty() || !std::ranges::all_of(text, [](char c) { return IsPlain(static_cast<uint8_t>(c)); })) continue;
    while (plain_.size() <= text.size()) plain_.emplace_back(tokens());
    plain_[text.size()].Add(id);
  }
  for (size_t i = 1; i < plain_.size(); ++i) plain_[i].Add(plain_[i - 1]);
}

size_t Vocabulary::bytes() const {
  return byte_.size() * (2 + 2 * sizeof(int32_t)) + same_.size() * sizeof(int32_t) +
         plain_.size() * plain_[0].words().size() * sizeof(uint64_t);
}

}  // namespace cambium
