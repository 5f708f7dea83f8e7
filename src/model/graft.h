#pragma once

#include <functional>
#include <span>
#include <string>

#include "model/pass.h"
#include "model/weights.h"
#include "tensor/buffer.h"

namespace cambium {

class Heads;
class Tape;

// What a hook needs besides its tensors.
struct GraftContext {
  ThreadPool& pool;
  Workspace& workspace;
  Compute compute;
  Tape* tape;  // null when serving; hooks Push what their backward Pops, in mirrored order
  uint64_t noise = 0;  // key of this training pass's random draws (dropout); 0 = none. Not a null tape: see checkpoint
};

// One trainable tensor with its gradient; both f32.
struct Parameter {
  std::string name;  // the name used in checkpoints
  Tensor value;
  Tensor grad;            // empty until the trainer provides it
  bool decay = true;      // weight decay applies
  float lr_scale = 1;     // its learning rate is this times the run's
  // The graft rounds the value itself where mixed precision asks for 16 bits: the value is its own fp32 master.
  bool is_master = false;
  // A pass adds to the gradient once, a whole sum with one rounding; so gradients of several passes add up in place to
  // what adding the whole gradient of each gives.
  bool adds_once = false;
};

// A trained addition to the frozen base. Hooks see only the rows that carry the graft, and use the context's pool and
// workspace alone, as hooks of other grafts may run at the same time; defaults do nothing. Backward
// twins get the gradient of the forward's result, ADD to dx, and add to the grafts' own gradients.
class Graft {
 public:
  // Where AtBranch acts: the attention, the feed-forward or the cross attention sub-layer of a block.
  enum class Branch : uint8_t { kAttention, kFfn, kCross };
  static constexpr int kBranches = 3;

  virtual ~Graft() = default;
  virtual std::string kind() const = 0;  // "lora", "adapter", "prefix", ...

  // x [rows, hidden]: the embedded input, changed in place. tokens [rows]; a negative one is a row of the graft's own
  // prompt, embedded as zero (and the position's row, where a family has one): -1 is its first.
  virtual void AtEmbedding(const GraftContext&, std::span<const int32_t> /*tokens*/, Tensor /*x*/) {}
  virtual void AtEmbeddingBackward(const GraftContext&, std::span<const int32_t> /*tokens*/, Tensor /*dx*/) {}

  // Adds to y [rows, out], the result of linear `site` on x [rows, in].
  virtual bool ActsAt(Site) const { return false; }
  // Whether it acts at any expert of the layer's mixture: only then is it asked about their sites.
  virtual bool ActsAtExperts(int /*layer*/) const { return false; }
  virtual void AtLinear(const GraftContext&, Site, Tensor /*x*/, Tensor /*y*/) {}
  virtual void AtLinearBackward(const GraftContext&, Site, Tensor /*x*/, Tensor /*dy*/, Tensor /*dx*/) {}

  // h [rows, hidden] is the branch's output before the residual add, x the residual input; changes h in place.
  virtual bool ActsAtBranch(int /*layer*/, Branch) const { return false; }
  virtual void AtBranch(const GraftContext&, int /*layer*/, Branch, Tensor /*x*/, Tensor /*h*/) {}
  // dh: gradient of the changed h, becomes the gradient of the unchanged h; adds to dx.
  virtual void AtBranchBackward(const GraftContext&, int /*layer*/, Branch, Tensor /*dh*/, Tensor /*dx*/) {}

  // y [rows, width] is the result of a norm, of all heads where it norms heads; changed in place. Serving only.
  virtual bool ActsAtNorm(int /*layer*/, NormKind) const { return false; }
  virtual void AtNorm(const GraftContext&, int /*layer*/, NormKind, Tensor /*y*/) {}

  // Adds to logits [rows, vocab], the head's result on hidden [rows, hidden]. Serving only.
  virtual bool ActsAtHead() const { return false; }
  virtual void AtHead(const GraftContext&, Tensor /*hidden*/, Tensor /*logits*/) {}

  // Keys and values [prefix_length, kv_heads, head_dim] that occupy the first slots of a sequence that carries the graft.
  virtual int64_t prefix_length() const { return 0; }
  struct Kv {
    Tensor k, v;
  };
  virtual Kv PrefixKv(int /*layer*/) { return {}; }
  virtual void PrefixKvBackward(int /*layer*/, Tensor /*dk*/, Tensor /*dv*/) {}
  // In a model with an encoder, also before the source in the encoder's layers (PrefixKv), and before the memory that a
  // decoder's layer reads.
  virtual int64_t encoder_prefix_length() const { return 0; }
  virtual int64_t cross_prefix_length() const { return 0; }
  virtual Kv CrossPrefixKv(int /*layer*/) { return {}; }
  virtual void CrossPrefixKvBackward(int /*layer*/, Tensor /*dk*/, Tensor /*dv*/) {}
  // Whether the text's positions go on behind the prefix, or begin at 0 as if it were not there.
  virtual bool prefix_shifts_positions() const { return true; }

  // Rows of its own before every text, behind the prefix: in training rows of the pass, in serving computed once a sequence.
  virtual int64_t prompt_length() const { return 0; }
  int64_t slots_before() const { return prefix_length() + prompt_length(); }

  // Full fine-tuning: where the gradients of base parameters that no site covers are added; empty for everybody else.
  // The head's is the embedding's where they are tied.
  struct NormGradient {
    Tensor dgain, dbias;
  };
  virtual NormGradient NormGradientOf(int /*layer*/, NormKind) { return {}; }
  virtual Tensor EmbeddingGradient() { return {}; }  // [vocab, hidden]
  virtual Tensor PositionsGradient() { return {}; }  // as the table, where positions are learned
  virtual Tensor EncoderPositionsGradient() { return {}; }
  virtual Tensor HeadGradient() { return {}; }       // [vocab, hidden]

  // AtHidden: the guesses of further tokens that this graft makes from the trunk's hidden states; null for everybody else.
  virtual Heads* heads() { return nullptr; }

  // Every trainable tensor, in a fixed order.
  virtual void VisitParams(const std::function<void(Parameter&)>& visit) = 0;
  // The trainer changed parameter values: after a step, a resume, or the restoring of the best ones.
  virtual void AfterUpdate() {}
  // The lowest block whose output the graft changes: backward stops there.
  virtual int64_t LowestLayer() const { return 0; }

  // Whether the graft is a change of the base's weights and of nothing else: of linears' matrices, unless it has more.
  virtual bool mergeable() const { return false; }
  // Makes that change on the decoded matrix [out, in], f32, of a site where it acts.
  virtual void MergeInto(Site, Tensor /*weight*/) {}
  // The values, f32, that replace another tensor of the base's, by its name in a GGUF file; empty = it stays.
  virtual OwnedTensor MergedWhole(const std::string& /*gguf_name*/) const { return {}; }
  // Writes the field's format (PEFT, AdapterHub, ...) into directory `path`.
  virtual void Save(const std::string& path) = 0;
};

}  // namespace cambium
