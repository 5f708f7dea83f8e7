#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cambium/cambium.h"
#include "tensor/tensor.h"

namespace cambium {

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
  // The child of `parent` that carries `token`, or -1.
  int32_t Child(int32_t parent, int32_t token) const;
  // Adds a child unless it is there; returns its index.
  int32_t Add(int32_t parent, int32_t token, float probability, uint8_t drafter = 0);
  std::vector<int32_t> Depths() const;  // of every node; children of the root have 0
  // Of a node's children (-1: of the root's); null where they were chosen, not drawn.
  const std::vector<Share>* Proposal(int32_t node) const;
};

// What the target made of a pass: the rows that were committed.
struct Observation {
  int64_t position;                 // of the first token in the sequence
  std::span<const int32_t> tokens;  // committed by the pass, in order
  Tensor hidden;                    // [tokens, hidden] after the final norm; empty unless asked for
  Tensor after_layer;               // [tokens, hidden] residual after Needs::after_layer; empty unless asked for
  int32_t next;                     // drawn from the last row: the root of the next draft, not committed yet
  // What was verified, the draft that was not accepted included; after a prompt, null and the last token's row alone.
  const Draft* draft = nullptr;
  Tensor logits;                    // [1 + nodes, vocab]: the root's row, then the nodes'
};

// Proposes tokens ahead of the target. One instance serves one sequence. Proposals never change the result, only the
// speed (law 7).
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
  // Before Begin: how the target draws. A drafter that draws its proposals does it with the target's noise of the position,
  // which agrees most often (Daliri et al. 2024); `proposals`: and records what it drew them from.
  virtual void Sampling(const SamplingOptions& /*sampling*/, bool /*proposals*/) {}
  // A new request; everything seen before is another request's.
  virtual void Begin(std::span<const int32_t> prompt) = 0;
  // After every pass; of the prompt's passes only those that were computed, not what the cache still held.
  virtual void Observe(const Observation& observation) = 0;
  // Adds at most `budget` nodes to the (empty) draft; depths below `max_depth`.
  virtual void Propose(int64_t budget, int64_t max_depth, Draft& draft) = 0;
  // After Observe: the time of that pass over `rows` rows, for the cost model.
  virtual void Measure(int64_t /*rows*/, double /*pass_ms*/) {}

  // Says whether another level of a draft is worth its time; unset: yes. Drafters that run a network ask it.
  using Pays = std::function<bool(const Draft& draft)>;
  void set_pays(Pays pays) { pays_ = std::move(pays); }

 protected:
  Pays pays_;
};

}  // namespace cambium
