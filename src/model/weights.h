#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/parallel.h"
#include "model/config.h"
#include "ops/ops.h"
#include "tensor/buffer.h"

namespace cambium {

// The places where a graft may act on a linear's result.
enum class SiteKind : uint8_t { kQ, kK, kV, kO, kGate, kUp, kDown, kCrossQ, kCrossK, kCrossV, kCrossO };
inline constexpr int kSiteKinds = 11;
struct Site {
  int layer = 0;
  SiteKind kind = SiteKind::kQ;
  int expert = -1;  // of the layer's mixture; -1: the layer's own linear, or that of the expert that all rows share
};
// "q_proj" ... as HF and PEFT name the modules of Llama-like models.
const char* SiteName(SiteKind kind);

// y = x w^T + bias, in whatever storage w has.
struct Linear {
  PackedMatrix w;
  OwnedTensor bias;  // f32 [out], may be empty
  int64_t in() const { return w.in(); }
  int64_t out() const { return w.out(); }
  Product To(Tensor y) const { return {&w, y, bias.view.f32()}; }
};

enum class NormKind : uint8_t { kAttention, kAttentionPost, kFfn, kFfnPost, kQ, kK, kFinal, kCross, kEmbedding };
const char* NormName(NormKind kind);  // "attention_norm", ...

struct NormWeights {
  OwnedTensor gain, bias;  // f32; bias only for LayerNorm
};

// A mixture of experts: gated feed-forward layers, of which each row goes through a few.
struct ExpertWeights {
  struct Expert {
    Linear gate, up, down;
    Linear& operator[](SiteKind kind) { return kind == SiteKind::kGate ? gate : kind == SiteKind::kUp ? up : down; }
    const Linear& operator[](SiteKind kind) const { return const_cast<Expert&>(*this)[kind]; }
  };
  Linear router;  // [experts, hidden]
  std::vector<Expert> experts;
  Linear shared_gate;  // [1, hidden]: what scales the shared expert's result; empty if nothing does
};

struct BlockWeights {
  NormWeights attention_norm, ffn_norm;
  NormWeights attention_post_norm, ffn_post_norm;  // if config.post_norms
  NormWeights q_norm, k_norm;                      // if config.qk_norm, [head_dim]
  NormWeights cross_norm;                          // of a decoder with an encoder
  Linear linears[kSiteKinds];  // kGate is empty unless config.gated, the cross attention's but in such a decoder
  Linear& operator[](SiteKind kind) { return linears[static_cast<int>(kind)]; }
  const Linear& operator[](SiteKind kind) const { return linears[static_cast<int>(kind)]; }
  // If the layer routes: then kGate, kUp and kDown above are the shared expert, empty if there is none.
  std::unique_ptr<ExpertWeights> experts;
};

// The frozen base: packed matrices and f32 vectors. Rows of q and k are in HF's half-split RoPE order, whatever the file.
struct ModelWeights {
  ModelConfig config;
  PackedMatrix embedding;     // [vocab, hidden]; empty if a graft gives the input (multi-token prediction)
  OwnedTensor positions;      // [position_offset + context, hidden], where positions are learned
  std::vector<BlockWeights> blocks;  // the encoder's first
  NormWeights embedding_norm;        // if config.embedding_norm
  NormWeights final_norm;            // if config.final_norm
  OwnedTensor logit_bias;            // [vocab], added to the head's result; empty: none
  struct Encoder {                   // of its own, where there is one
    OwnedTensor positions;
    NormWeights embedding_norm, final_norm;
  } encoder;
  PackedMatrix separate_head;  // empty if tied
  // Where the model's own multi-token-prediction module is read from: the path of the model; empty if it has none.
  std::string mtp_source;
  const PackedMatrix& head() const { return separate_head ? separate_head : embedding; }
  int64_t bytes() const;
  // Every site that has a linear: by layer, then kind, an experts' kind by expert.
  std::vector<Site> sites() const;
  const Linear& At(Site site) const;
};

// Reads a GGUF file, or a HF directory (config.json + safetensors). Throws kData naming file, tensor and both shapes;
// kResource, before reading, when the weights cannot fit in memory.
std::unique_ptr<ModelWeights> LoadWeights(ThreadPool& pool, const std::string& path);

}  // namespace cambium
