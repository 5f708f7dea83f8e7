#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace cambium {

// Every run of tokens in a text, in states that grow by one or two a token (Blumer et al. 1985). State 0 is the empty
// run.
class SuffixAutomaton {
 public:
  void Clear();
  void Push(int32_t token);

  // The state of the text's longest suffix that occurred before; 0 if none did.
  int32_t Match() const { return At(last_).link < 0 ? 0 : At(last_).link; }
  int64_t tokens() const { return At(last_).length; }               // pushed since Clear
  int32_t Shorter(int32_t state) const { return At(state).link; }   // of the next shorter suffix
  int32_t Length(int32_t state) const { return At(state).length; }  // of its longest run
  int32_t Visits(int32_t state) const { return At(state).visits; }
  const std::vector<int32_t>& Tokens(int32_t state) const { return At(state).tokens; }  // that lead on
  // The state that the token leads to; -1: it never followed.
  int32_t Next(int32_t state, int32_t token) const;

 private:
  struct State {
    int32_t length = 0;  // of the longest run that ends here
    int32_t link = -1;   // the longest suffix that is in another state
    int32_t visits = 1;  // occurrences
    std::vector<int32_t> tokens;
  };

  static uint64_t Key(int32_t state, int32_t token) {
    return static_cast<uint64_t>(state) << 32 | static_cast<uint32_t>(token);
  }
  State& At(int32_t index) { return states_[static_cast<size_t>(index)]; }
  const State& At(int32_t index) const { return states_[static_cast<size_t>(index)]; }
  int32_t New(int32_t length);
  void AddEdge(int32_t state, int32_t token, int32_t target);

  std::vector<State> states_ = std::vector<State>(1);
  std::unordered_map<uint64_t, int32_t> edges_;
  int32_t last_ = 0;
};

}  // namespace cambium
