#include "grammar/program.h"

#include <map>

#include "grammar/program_build.h"

namespace cambium {

Program::Program(Rules& rules, Rules::Rule root) {
  ProgramBuilder builder(rules);
  start_ = builder.Build(root);
  loops_ = std::move(builder.loops);
  for (const ProgramBuilder::State& state : builder.states) {
    states_.push_back({static_cast<int32_t>(edges_.size()), static_cast<int32_t>(calls_.size()),
                       static_cast<int32_t>(enters_.size()), static_cast<int32_t>(skips_.size()), state.ends});
    edges_.insert(edges_.end(), state.edges.begin(), state.edges.end());
    calls_.insert(calls_.end(), state.calls.begin(), state.calls.end());
    enters_.insert(enters_.end(), state.enters.begin(), state.enters.end());
    skips_.insert(skips_.end(), state.skips.begin(), state.skips.end());
  }
  states_.push_back({static_cast<int32_t>(edges_.size()), static_cast<int32_t>(calls_.size()),
                     static_cast<int32_t>(enters_.size()), static_cast<int32_t>(skips_.size()), false});
  ClassBytes();
}

// A class ends where some edge begins or ends.
void Program::ClassBytes() {
  bool cut[257] = {};
  for (const Edge& edge : edges_) cut[edge.lo] = cut[edge.hi + 1] = true;
  class_count_ = 0;
  for (int byte = 0; byte < 256; ++byte) {
    if (byte > 0 && cut[byte]) ++class_count_;
    classes_[byte] = static_cast<uint8_t>(class_count_);
  }
  ++class_count_;
}

}  // namespace cambium
