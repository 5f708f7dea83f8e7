#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cambium/cambium.h"
#include "model/kv_cache.h"
#include "tensor/tensor.h"

namespace cambium {

class Graft;
class TokenConstraint;

// A proposed token tree; parents come before children. Its root is the last drawn token, which is not in it.
struct Draft {
  struct Node {
    int32_t token;
    int32_t parent;       // index of a node, or -1 for a child of the root
    float probability;    // the drafter's belief that the target draws it, given that its parent was drawn
    uint8_t drafter = 0;  // which drafter proposed it, for statistics
  };
  // What the children of a row were drawn from, where they were drawn: tokens and their probabilities.
  struct Share {
    int32_t token;
    float probability;
  };
  std::vector<Node> nodes;
  std::vector<std::vector<Share>> proposals;  // by row: the root, then the nodes; empty where children were chosen

  bool empty() const { return nodes.empty(); }
  int64_t size() const { return std::ssize(nodes); }
  // The child of `parent` that carries `token`, or -1.
  int32_t Child(int32_t parent, int32_t token) const;
  // Adds a child unless it is there; returns its index.
  int32_t Add(int32_t parent, int32_t token, float probability, uint8_t drafter = 0);
  std::vector<int32_t> Depths() const;  // of every node; children of the root have 0
  // Of a node's children (-1: of the root's); null where they were chosen, not drawn.
  const std::vector<Share>* Proposal(int32_t node) const;
};

// A sequence under way as its drafters see it. Everything outlives the sessions that were opened for it.
struct DraftText {
  const std::vector<int32_t>& tokens;  // the prompt and all that was drawn; the last is the root of the next draft
  KvCache::Id sequence;                // in the target's cache, where token i sits in slot slots_before + i
  int64_t slots_before;                // slots that grafts fill
  int64_t known;                       // tokens whose keys and values, a draft module's too, came out of the prefix index
  std::span<Graft* const> grafts;      // that act on its rows
  const SamplingOptions& sampling;     // how the target draws
  bool proposals;                      // record what proposals are drawn from, for the rejection rule
  TokenConstraint* constraint = nullptr;  // what the answer must be; null: anything
};

// What the target made of a pass: the rows that were committed.
struct Observation {
  int64_t position;                 // of the first token in the sequence
  std::span<const int32_t> tokens;  // committed by the pass, in order
  Tensor hidden;                    // [tokens, hidden] after the final norm; empty unless asked for
  Tensor after_layer;               // [tokens, hidden] residual after Needs::after_layer; empty unless asked for
  int32_t next;                     // the token behind them: drawn from the last row, or the prompt's
  // What was verified, the draft that was not accepted included; after a prompt, null and the last token's row alone.
  const Draft* draft = nullptr;
  Tensor logits;                    // [1 + nodes, vocab]: the root's row, then the nodes'; empty inside a prompt
};

// What a drafter keeps of one sequence.
class DraftSession {
 public:
  virtual ~DraftSession() = default;
  // After every pass over the sequence, when its tokens end with what was drawn; of the prompt's passes only those that
  // were computed, not what the cache still held.
  virtual void Observe(const Observation& /*observation*/) {}
  // How many of the text's tokens have all their keys and values in the cache, a draft module's too: so many may be
  // published.
  virtual int64_t kept() const { return std::numeric_limits<int64_t>::max(); }
};

// One sequence's part of a proposal.
struct DraftTask {
  DraftSession* session;
  int64_t budget;     // nodes at most
  int64_t max_depth;  // depths stay below
  Draft draft;        // empty at first
};

// Proposes tokens ahead of the target: weights and what was learned, for all sequences of a model. Proposals never change
// the result, only the speed (law 7).
class Drafter {
 public:
  struct Needs {
    bool hidden = false;
    int64_t after_layer = -1;
  };

  virtual ~Drafter() = default;
  virtual std::string name() const = 0;
  virtual Needs needs() const { return {}; }
  // Whether proposing costs next to nothing beside a pass (retrieval), or runs a network.
  virtual bool cheap() const { return true; }
  // Whether sessions keep keys and values of a module in the target's cache, which therefore shares pages only among
  // sequences that draft with it.
  virtual bool keeps_kv() const { return false; }
  // A session lives as long as the sequence keeps its place in the cache.
  virtual std::unique_ptr<DraftSession> Open(const DraftText& text) = 0;
  // Fills the tasks' drafts. A drafter that runs a network runs one pass for all of them, level by level, and goes on with
  // the drafts that `pays` says yes to; empty: with all.
  using Pays = std::function<bool(const DraftTask& task)>;
  virtual void Propose(std::span<DraftTask> tasks, const Pays& pays) = 0;
};

}  // namespace cambium
