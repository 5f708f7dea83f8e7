#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "grammar/program.h"

namespace cambium {

// Runs a program over bytes. Where several ways are open, all are followed: what is reached is a set of configurations,
// each a state with a stack. Sets and stacks are kept once, by number, and each step is computed once.
class Acceptor {
 public:
  using Set = int32_t;
  static constexpr Set kDead = -1;
  struct Configuration {
    int32_t state, frame;  // frame: the top of its stack; -1: empty
    auto operator<=>(const Configuration&) const = default;
  };
  // What a stack holds: where a call returns to, or a counted loop with the bodies that are complete.
  struct Frame {
    int32_t next, loop;  // loop -1: a call
    int64_t count;
    int32_t below;
    bool operator==(const Frame&) const = default;
  };

  explicit Acceptor(const Program& program) : program_(program), classes_(program.byte_classes()) {}

  // Where texts begin.
  Set Begin();
  // One configuration alone, with these frames on its stack, the top one last (`below` is set here); what it reaches
  // without a byte is left out.
  Set Only(int32_t state, std::span<const Frame> frames);
  // Where the stack below `frame` goes on when what is above it is complete.
  Set Return(int32_t frame);
  // Behind one more byte; kDead where no text goes on so. kResource where too many ways are open at once.
  Set Step(Set set, uint8_t byte) {
    const int32_t known = steps_[static_cast<size_t>(set) * static_cast<size_t>(classes_) + program_.byte_class(byte)];
    return known != kUnknown ? known : Compute(set, byte);
  }
  Set Run(Set set, std::string_view bytes) {
    for (size_t i = 0; i < bytes.size() && set != kDead; ++i) set = Step(set, static_cast<uint8_t>(bytes[i]));
    return set;
  }

  bool complete(Set set) const { return sets_[static_cast<size_t>(set)].complete; }  // a text may end here
  bool open(Set set) const { return !configurations(set).empty(); }                  // a text may go on
  std::span<const Configuration> configurations(Set set) const {
    const Entry& entry = sets_[static_cast<size_t>(set)];
    return {all_.data() + entry.begin, static_cast<size_t>(entry.end - entry.begin)};
  }
  const Frame& frame(int32_t frame) const { return frames_[static_cast<size_t>(frame)]; }
  const Program& program() const { return program_; }
  size_t bytes() const;

 private:
  static constexpr int32_t kUnknown = -2;
  static constexpr size_t kMostWays = 20'000;  // open at once
  struct Entry {
    int64_t begin, end;
    bool complete;
  };

  Set Compute(Set set, uint8_t byte);
  int32_t Push(const Frame& frame);
  void Visit(int32_t state, int32_t frame);
  void Pop(int32_t frame);
  void Reset();
  void Close();  // follows what costs no byte, from `reached_`
  Set Intern();  // what was reached

  const Program& program_;
  int32_t classes_;
  std::vector<Frame> frames_;
  std::unordered_multimap<uint64_t, int32_t> frame_index_;
  std::vector<Configuration> all_;
  std::vector<Entry> sets_;
  std::unordered_multimap<uint64_t, Set> set_index_;
  std::vector<int32_t> steps_;  // [sets, classes]

  std::vector<Configuration> reached_;  // under way
  std::unordered_map<uint64_t, bool> seen_;
  bool complete_ = false;
};

}  // namespace cambium
