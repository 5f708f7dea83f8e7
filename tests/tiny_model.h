#pragma once

// Random models of every family, a few kilobytes each, built in memory.

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "base/random.h"
#include "model/weights.h"
#include "tensor/quantize.h"

namespace cambium {

enum class TinyFamily { kLlama, kQwen3, kGemma3, kGpt2 };

struct TinyOptions {
  TinyFamily family = TinyFamily::kLlama;
  int64_t layers = 2, hidden = 32, heads = 4, kv_heads = 2, head_dim = 8, ffn = 48, vocab = 61, context = 256;
  int sliding_window = 5;  // gemma3 only; every second layer slides
  DType weights =
      DType::kF32;  // storage of the matrices: any that Quantize can write; quantised ones need sizes of whole blocks
  float scale = 1.0f;  // multiplies the usual 1 / sqrt(in) spread of the matrices
};

namespace tiny_internal {

// inv_freq[i] = theta^(-2i / head_dim)
inline std::vector<float> InvFreq(double theta, int64_t head_dim) {
  std::vector<float> frequencies;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    frequencies.push_back(
        static_cast<float>(std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim))));
  }
  return frequencies;
}

// Standard normals times `spread` plus `mean`; `stream` tells tensors apart.
inline OwnedTensor Normals(uint64_t seed, uint64_t stream, std::initializer_list<int64_t> shape, float spread,
                           float mean = 0) {
  OwnedTensor tensor(shape);
  const Philox noise(seed);
  for (int64_t i = 0; i < tensor.view.size(); ++i) {
    tensor.view.f32()[i] = mean + spread * static_cast<float>(noise.Normal(static_cast<uint64_t>(i), stream));
  }
  return tensor;
}

}  // namespace tiny_internal

inline std::unique_ptr<ModelWeights> TinyModel(ThreadPool& pool, uint64_t seed, const TinyOptions& o = {}) {
  using tiny_internal::Normals;
  auto model = std::make_unique<ModelWeights>();
  ModelConfig& c = model->config;
  const bool gpt2 = o.family == TinyFamily::kGpt2, gemma = o.family == TinyFamily::kGemma3;
  const bool qwen = o.family == TinyFamily::kQwen3;
  c.family = gpt2 ? "gpt2" : gemma ? "gemma3" : qwen ? "qwen3" : "llama";
  c.name = "tiny-" + c.family;
  c.layers = o.layers;
  c.hidden = o.hidden;
  c.heads = o.heads;
  c.kv_heads = gpt2 ? o.heads : o.kv_heads;
  c.head_dim = o.head_dim;
  c.ffn = o.ffn;
  c.vocab = o.vocab;
  c.context = o.context;
  c.attention_scale = 1.0f / std::sqrt(static_cast<float>(o.head_dim));
  c.norm_eps = 1e-5f;
  c.tied_head = gpt2 || gemma;
  c.qk_norm = qwen || gemma;
  if (gpt2) {
    c.norm = ModelConfig::Norm::kLayer;
    c.activation = Activation::kGeluTanh;
    c.gated = false;
    c.learned_positions = true;
    c.rope = false;
  } else {
    c.inv_freq = tiny_internal::InvFreq(gemma ? 1e6 : 1e4, o.head_dim);
  }
  if (gemma) {
    c.activation = Activation::kGeluTanh;
    c.post_norms = true;
    c.embedding_scale = std::sqrt(static_cast<float>(o.hidden));
    c.sliding_window = o.sliding_window;
    c.inv_freq_sliding = tiny_internal::InvFreq(1e4, o.head_dim);
    for (int64_t layer = 0; layer < o.layers; ++layer) c.layer_slides.push_back(layer % 2 == 0);
  }

  uint64_t stream = 0;
  const auto matrix = [&](int64_t out, int64_t in, float spread) {
    const OwnedTensor values = Normals(seed, ++stream, {out, in}, spread);
    if (o.weights == DType::kF32) return PackedMatrix(pool, values.view);
    const OwnedTensor stored(o.weights, {out, in});
    Quantize(o.weights, values.view.f32(), stored.view.data, values.view.size());
    return PackedMatrix(pool, stored.view);
  };
  const auto norm = [&](int64_t size) {
    NormWeights weights;
    weights.gain = Normals(seed, ++stream, {size}, 0.2f, 1.0f);
    if (gpt2) weights.bias = Normals(seed, ++stream, {size}, 0.1f);
    return weights;
  };
  const auto linear = [&](int64_t out, int64_t in, bool bias) {
    Linear result;
    result.w = matrix(out, in, o.scale / std::sqrt(static_cast<float>(in)));
    if (bias) result.bias = Normals(seed, ++stream, {out}, 0.1f);
    return result;
  };

  const float embedding_spread = gemma ? 1.0f / std::sqrt(static_cast<float>(o.hidden)) : 1.0f;
  model->embedding = matrix(o.vocab, o.hidden, embedding_spread);
  if (gpt2) model->positions = Normals(seed, ++stream, {o.context, o.hidden}, 0.3f);
  if (!c.tied_head) model->separate_head = matrix(o.vocab, o.hidden, 1.0f / std::sqrt(static_cast<float>(o.hidden)));
  for (int64_t layer = 0; layer < o.layers; ++layer) {
    BlockWeights block;
    block.attention_norm = norm(o.hidden);
    block.ffn_norm = norm(o.hidden);
    if (c.post_norms) {
      block.attention_post_norm = norm(o.hidden);
      block.ffn_post_norm = norm(o.hidden);
    }
    if (c.qk_norm) {
      block.q_norm = norm(o.head_dim);
      block.k_norm = norm(o.head_dim);
    }
    const int64_t q_out = c.heads * c.head_dim, kv_out = c.kv_heads * c.head_dim;
    block[SiteKind::kQ] = linear(q_out, o.hidden, gpt2 || qwen);
    block[SiteKind::kK] = linear(kv_out, o.hidden, gpt2 || qwen);
    block[SiteKind::kV] = linear(kv_out, o.hidden, gpt2 || qwen);
    block[SiteKind::kO] = linear(o.hidden, q_out, gpt2);
    if (c.gated) block[SiteKind::kGate] = linear(o.ffn, o.hidden, false);
    block[SiteKind::kUp] = linear(o.ffn, o.hidden, gpt2);
    block[SiteKind::kDown] = linear(o.hidden, o.ffn, gpt2);
    model->blocks.push_back(std::move(block));
  }
  model->final_norm = norm(o.hidden);
  return model;
}

inline constexpr TinyFamily kTinyFamilies[] = {TinyFamily::kLlama, TinyFamily::kQwen3, TinyFamily::kGemma3,
                                               TinyFamily::kGpt2};

}  // namespace cambium
