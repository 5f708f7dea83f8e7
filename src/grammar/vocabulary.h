#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/token_set.h"

namespace cambium {

// Bytes that most tokens consist of: printable ASCII but the quote and the backslash.
constexpr bool IsPlain(uint8_t byte) { return byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\'; }

// The tokens of a model as a tree of their bytes, flat, in the order of a walk: a node's subtree lies behind it.
// Immutable; a grammar sees nothing else of a tokenizer.
class Vocabulary {
 public:
  // `pieces`: by id, the bytes that a token adds to a text; empty: it is never drawn. Control tokens stand as
  // ControlText(name). `ends`: ids that end a text.
  Vocabulary(std::vector<std::string> pieces, std::vector<int32_t> ends);

  int32_t tokens() const { return static_cast<int32_t>(pieces_.size()); }
  std::string_view piece(int32_t id) const { return pieces_[static_cast<size_t>(id)]; }
  const std::vector<int32_t>& ends() const { return ends_; }
  int64_t longest() const { return longest_; }  // bytes

  // Node 0 is the root, which has no byte.
  int32_t nodes() const { return static_cast<int32_t>(byte_.size()); }
  uint8_t byte(int32_t node) const { return byte_[static_cast<size_t>(node)]; }
  int32_t end(int32_t node) const { return end_[static_cast<size_t>(node)]; }      // behind its subtree
  int32_t token(int32_t node) const { return token_[static_cast<size_t>(node)]; }  // -1: none ends here
  int32_t same(int32_t id) const { return same_[static_cast<size_t>(id)]; }        // another of the same bytes, or -1
  bool plain_below(int32_t node) const { return plain_below_[static_cast<size_t>(node)] != 0; }  // all of its subtree
  // The tokens of plain bytes alone, at most so many; `longest_plain()` of them are all.
  const TokenSet& plain(size_t bytes) const { return plain_[std::min(bytes, plain_.size() - 1)]; }
  size_t longest_plain() const { return plain_.size() - 1; }
  size_t bytes() const;

 private:
  void FindPlain();

  std::vector<std::string> pieces_;
  std::vector<int32_t> ends_, end_, token_, same_;
  std::vector<uint8_t> byte_, plain_below_;
  std::vector<TokenSet> plain_;  // by length
  int64_t longest_ = 0;
};

}  // namespace cambium
