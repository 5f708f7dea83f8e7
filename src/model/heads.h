#pragma once

#include <limits>
#include <span>

#include "model/graft.h"

namespace cambium {

// One guess of every row: what a head reads.
struct HeadStep {
  Tensor input;                      // [rows, hidden]: the trunk's, or the state that the depth before left (chained)
  std::span<const int32_t> tokens;   // [rows]: the newest token known where the guess is made; only chained heads look
  std::span<const int64_t> lengths;  // rows of each text, one after another
  // Serving: the head's keys and values so far, in layer kv_layer of a cache; for each text its sequence there and how many
  // slots stand before the rows.
  KvCache* kv = nullptr;
  int64_t kv_layer = 0;
  std::span<const KvCache::Id> sequences = {};
  std::span<const int64_t> pasts = {};
  Tensor dembedding = {};            // [vocab, hidden]: training, the gradient of the base's embedding; empty = none wanted
};

// A graft that leaves the trunk as it is and guesses tokens further ahead from its hidden states (the AtHidden site):
// depth d guesses, at row t, token t + first() + d of the text. Drafters run the same Forward that training does.
class Heads : public Graft {
 public:
  Heads* heads() override { return this; }
  int64_t LowestLayer() const override { return std::numeric_limits<int64_t>::max(); }

  virtual int64_t depths() const = 0;
  virtual int64_t first() const { return 2; }  // 1 + what the trunk guesses itself
  // The block whose output the heads read, 0-based; -1: the final norm's.
  virtual int64_t after_layer() const { return -1; }
  // Whether depth d reads the state of depth d - 1 and the token t + 1 + d, so that it can follow a draft.
  virtual bool chained() const { return false; }

  // features [rows, hidden]: what readout(depth) multiplies. state [rows, hidden]: for the next depth, if chained.
  virtual void Forward(const GraftContext& context, int64_t depth, const HeadStep& step, Tensor features,
                       Tensor state) = 0;
  // Adds to the parameters' gradients, given those of features and, if chained, of state (empty: none). dinput, if not
  // empty, becomes the input's gradient. Runs the forward again: nothing is kept between them.
  virtual void Backward(const GraftContext& context, int64_t depth, const HeadStep& step, Tensor dfeatures,
                        Tensor dstate, Tensor dinput) = 0;

  // Logits = features x readout^T, one per token of the draft vocabulary.
  virtual const PackedMatrix& readout(int64_t depth) const = 0;
  virtual Tensor readout_gradient(int64_t /*depth*/) { return {}; }  // [draft vocabulary, hidden], if it is trained
  // The tokens of the draft vocabulary, ascending; empty: all of them.
  virtual std::span<const int32_t> draft_tokens() const = 0;
  int32_t DraftToken(int32_t row) const {
    const std::span<const int32_t> ids = draft_tokens();
    return ids.empty() ? row : ids[static_cast<size_t>(row)];
  }

  // Adds the layers that the heads' blocks keep keys and values in, one a block; the index of the first, -1: they keep none.
  virtual int64_t AddLayers(KvCache& /*kv*/) const { return -1; }

  // Packs the weights for serving: 8 bits where the base is quantised. No training afterwards.
  virtual void Freeze() = 0;
};

}  // namespace cambium
