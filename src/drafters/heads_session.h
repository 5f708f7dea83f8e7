#pragma once

#include <cstdint>
#include <vector>

#include "decode/drafter.h"
#include "decode/top.h"
#include "model/heads.h"
#include "model/transformer.h"

namespace cambium {

// One depth's rows of many texts, one text after another.
struct HeadRows {
  Tensor input;                        // [rows, hidden]
  std::vector<int32_t> tokens;         // [rows]: the token behind each
  std::vector<int64_t> lengths;        // rows of each text
  std::vector<KvCache::Id> sequences;  // where the heads' blocks keep the texts' keys and values
  std::vector<int64_t> pasts;          // their slots before the rows
};

// What runs draft heads. Those with a block have layers in the target's cache, where row i of a text is in slot i.
class HeadsRunner {
 public:
  HeadsRunner(Heads& heads, Transformer& target, KvCache& kv, Compute compute, int64_t max_depth,
              int64_t tokens);
  ~HeadsRunner();
  HeadsRunner(const HeadsRunner&) = delete;
  HeadsRunner& operator=(const HeadsRunner&) = delete;

  Heads& heads;
  KvCache& kv;
  const int64_t width;      // hidden
  const int64_t max_depth;  // levels of a draft
  Workspace workspace;      // of a proposal

  bool keeps_kv() const { return layer_ >= 0; }

  // Of each text's last row, [texts, hidden]; state if the heads are chained.
  struct Last {
    Tensor features, state;
  };
  Last Run(int64_t depth, const HeadRows& rows);
  // The `choices` likeliest tokens of each row of features [rows, hidden], by the depth's readout.
  std::vector<std::vector<TopToken>> Read(int64_t depth, Tensor features, size_t choices);

 private:
  Tensor LastOf(Tensor rows, std::span<const int64_t> lengths);

  ThreadPool& pool_;
  Compute compute_;
  int64_t tokens_;  // that may be proposed: those below
  int64_t layer_;  // of the first block's keys and values; -1: there is no block
};

// Hidden states of a text's committed tokens, each with the token behind it, wait here until the heads run over them.
class HeadsSession : public DraftSession {
 public:
  HeadsSession(HeadsRunner& runner, const DraftText& text);
  ~HeadsSession() override;

  void Observe(const Observation& observation) override;
  int64_t kept() const override;

  int64_t waiting() const { return std::ssize(behind_); }
  int64_t computed() const { return computed_; }
  KvCache::Id sequence() const { return sequence_; }
  const float* states() const { return states_.data(); }  // [waiting, hidden]

  // Whether slots below `end` can be written.
  bool Room(int64_t end) const;
  // Appends the first `count` waiting rows to `rows`, all but their states.
  void AppendTo(HeadRows& rows, int64_t count) const;
  // The first `count` waiting rows were run.
  void Ran(int64_t count);

 private:
  void CatchUp();

  HeadsRunner& runner_;
  // Rows are kept in the text's own slots, on pages that others may share. Where grafts fill slots before the text, a
  // page would hold rows of tokens that it is not known by: such a text has a sequence of its own for them, and shares
  // nothing.
  const bool borrowed_;
  KvCache::Id sequence_;
  int64_t computed_;             // rows whose keys and values are in the cache
  std::vector<float> states_;    // [waiting, hidden]
  std::vector<int32_t> behind_;  // the token behind each
  bool lost_ = false;            // rows found no room: there is nothing to propose from
};

}  // namespace cambium
