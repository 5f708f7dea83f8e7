// A model's configuration on its way from GGUF's metadata and to it.
#include "families/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "cambium/error.h"
#include "families/hf_rope.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "io/known_keys.h"
#include "io/tokenizer.h"
#include "tensor/quantize.h"

namespace cambium {
namespace {

constexpr int64_t kMostLayers = 1 << 16;

const Family& FamilyOf(const GgufFile& file) {
  const std::string arch = file.Str("general.architecture");
  for (const Family* family : Families()) {
    if (family->gguf == arch && !family->traits.encoder && (family->claims == nullptr || family->claims(file)))
      return *family;
  }
  Fail(ErrorCode::kData, file.path(), ": general.architecture is \"", arch, "\"; supported are ",
       FamilyNames(Dialect::kGguf));
}

// Which layers see a sliding window only, by attention.sliding_window_pattern: a period or one flag a layer.
std::vector<uint8_t> SlidingLayers(const GgufFile& file, const std::string& dot, const HfConfig& config) {
  const std::string key = dot + "attention.sliding_window_pattern";
  std::vector<int64_t> pattern = file.Ints(key);
  if (pattern.empty()) pattern = {config.family->sliding_every};
  const bool period = pattern.size() == 1;
  if ((period && pattern[0] < 0) || (!period && static_cast<int64_t>(pattern.size()) != config.layers)) {
    Fail(ErrorCode::kData, file.path(), ": ", key, " has ", pattern.size(), " values, the first ", pattern[0],
         "; expected a period, or one for each of ", config.layers, " layers");
  }
  std::vector<uint8_t> slides;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const int64_t every = pattern[period ? 0 : static_cast<size_t>(layer)];
    slides.push_back(period ? every == 0 || (layer + 1) % every != 0 : every != 0);
  }
  return slides;
}

void ReadIds(const GgufFile& file, HfConfig& c) {
  const auto read = [&](const char* name) {
    const int32_t id = GgufTokenId(file, name, -1);
    return id >= 0 ? std::optional<int64_t>(id) : std::nullopt;
  };
  c.bos_id = read("bos");
  c.pad_id = read("padding");
  std::vector<int32_t> ends = GgufEndTokens(file);
  if (const int32_t eos = GgufTokenId(file, "eos", -1); eos >= 0) ends.insert(ends.begin(), eos);
  for (const int32_t id : ends) {
    if (std::ranges::find(c.eos_ids, id) == c.eos_ids.end()) c.eos_ids.push_back(id);
  }
}

void ReadRope(const GgufFile& file, const std::string& arch, HfConfig& c) {
  c.rope_theta = file.F64(arch + ".rope.freq_base", 10000.0);
  if (!(c.rope_theta > 0)) Fail(ErrorCode::kData, file.path(), ": ", arch, ".rope.freq_base is ", c.rope_theta);
  const auto rotated =
      static_cast<int64_t>(file.U64(arch + ".rope.dimension_count", static_cast<uint64_t>(c.head_dim)));
  c.rotary_dim = rotated;
  if (rotated != c.head_dim && c.family->keys.rotary != nullptr) {
    if (rotated < 2 || rotated > c.head_dim || rotated % 2 != 0) {
      Fail(ErrorCode::kData, file.path(), ": ", arch, ".rope.dimension_count is ", rotated, ", of a head of ",
           c.head_dim);
    }
  } else if (rotated != c.head_dim) {
    Fail(ErrorCode::kData, file.path(), ": ", arch, ".rope.dimension_count is ", rotated, ", the head dimension is ",
         c.head_dim, "; partial rotation is not supported");
  }
  c.rope_scaling = ReadGgufRopeScaling(file, arch, c.context);
  const Tensor* divisors = file.FindTensor("rope_freqs.weight");
  if (divisors == nullptr) return;
  if (divisors->size() != c.rotary_dim / 2) {
    Fail(ErrorCode::kData, file.path(), ": rope_freqs.weight has ", divisors->size(), " values, expected ",
         c.rotary_dim / 2);
  }
  c.rope_divisors.resize(static_cast<size_t>(divisors->size()));
  Dequantize(divisors->dtype, divisors->data, c.rope_divisors.data(), divisors->size());
}

void ReadSizes(const GgufFile& file, const std::string& arch, HfConfig& c) {
  const auto count = [&](const char* key, std::optional<uint64_t> fallback = {}) {
    const uint64_t value = file.U64(arch + key, fallback);
    if (value > uint64_t{1} << 32) Fail(ErrorCode::kData, file.path(), ": ", arch, key, " is ", value);
    return static_cast<int64_t>(value);
  };
  c.layers = count(".block_count");
  // The last blocks are modules that predict further tokens: no part of the trunk.
  c.next_token_modules = count(".nextn_predict_layers", 0);
  if (c.next_token_modules >= c.layers && c.next_token_modules > 0) {
    Fail(ErrorCode::kData, file.path(), ": ", arch, ".nextn_predict_layers is ", c.next_token_modules, ", ", arch,
         ".block_count is ", c.layers);
  }
  c.layers -= c.next_token_modules;
  if (c.layers < 1 || c.layers > kMostLayers) {
    Fail(ErrorCode::kData, file.path(), ": ", arch, ".block_count leaves ", c.layers, " layers, expected 1 to ",
         kMostLayers);
  }
  c.hidden = count(".embedding_length");
  c.ffn = count(".feed_forward_length");
  c.context = count(".context_length");
  c.heads = count(".attention.head_count");
  c.kv_heads = count(".attention.head_count_kv", static_cast<uint64_t>(c.heads));
  if (c.heads < 1 || c.kv_heads < 1) {
    Fail(ErrorCode::kData, file.path(), ": ", arch, ".attention.head_count is ", c.heads, ", head_count_kv is ",
         c.kv_heads);
  }
  c.head_dim = count(".attention.key_length", static_cast<uint64_t>(c.hidden / c.heads));
  if (const int64_t value = count(".attention.value_length", static_cast<uint64_t>(c.head_dim)); value != c.head_dim) {
    Fail(ErrorCode::kData, file.path(), ": ", arch, ".attention.value_length is ", value, ", key_length ", c.head_dim,
         "; they must be equal");
  }
  const Tensor* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr) Fail(ErrorCode::kData, file.path(), ": tensor token_embd.weight is missing");
  c.vocab = embedding->rows();
  c.sliding_window = std::min<int64_t>(count(".attention.sliding_window", 0), std::numeric_limits<int32_t>::max());
}

std::string NormKey(const Family& family) {
  const bool rms = family.traits.norm == BlockTraits::Norm::kRms;
  return rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon";
}

}  // namespace

HfConfig ReadGgufConfig(const GgufFile& file) {
  HfConfig c;
  c.path = file.path();
  c.family = &FamilyOf(file);
  CheckGgufKeys(file, c.family->gguf_keys);
  c.name = file.Str("general.name", "");
  const Family& family = *c.family;
  const std::string arch = family.gguf, dot = arch + ".";
  if (file.U64(dot + "expert_count", 0) > 0 && !TensorNames(family, Dialect::kGguf).Has(Role::kRouter)) {
    Fail(ErrorCode::kData, file.path(), ": ", dot, "expert_count is ", file.U64(dot + "expert_count"),
         "; mixtures of experts are not supported");
  }
  ReadSizes(file, arch, c);
  c.norm_eps = file.F64(dot + NormKey(family));
  c.activation = family.defaults.activation;
  c.tied_head = file.FindTensor("output.weight") == nullptr;
  const bool fused = TensorNames(family, Dialect::kGguf).Has(Role::kQkv);
  c.attention_bias = file.FindTensor(fused ? "blk.0.attn_qkv.bias" : "blk.0.attn_q.bias") != nullptr;
  c.attention_scale = file.F64(dot + "attention.scale", 0.0);
  if (!(c.attention_scale >= 0) || !std::isfinite(c.attention_scale)) {
    Fail(ErrorCode::kData, file.path(), ": ", dot, "attention.scale is ", c.attention_scale);
  }
  if (family.traits.rope) ReadRope(file, arch, c);
  if (family.sliding == Sliding::kEvery) c.layer_slides = SlidingLayers(file, dot, c);
  if (family.read_gguf != nullptr) family.read_gguf(file, c);
  ReadIds(file, c);
  return c;
}

GgufKeys::GgufKeys(GgufWriter& writer, const HfConfig& config, bool only_weights)
    : writer_(writer), config_(config), only_weights_(only_weights) {}

void GgufKeys::SetInt(const char* key, int64_t value) {
  const std::string whole = std::string(config_.family->gguf) + "." + key;
  if (value < 0 || value > UINT32_MAX) {
    Fail(ErrorCode::kData, config_.path, ": ", value, " for ", whole, " is more than the 32 bits that GGUF has for it");
  }
  writer_.Set(whole, static_cast<uint32_t>(value));
}

void GgufKeys::SetFloat(const char* key, double value) {
  writer_.Set(std::string(config_.family->gguf) + "." + key, static_cast<float>(value));
}

void GgufKeys::SetBool(const char* key, bool value) {
  writer_.Set(std::string(config_.family->gguf) + "." + key, value);
}

void GgufKeys::Inexpressible(std::string_view field) const {
  if (only_weights_) return;
  Fail(ErrorCode::kData, config_.path, ": ", field, " has a value that GGUF cannot express");
}

namespace {

void SetRope(GgufWriter& writer, const HfConfig& c, GgufKeys& keys, bool only_weights) {
  keys.SetInt("rope.dimension_count", c.rotary_dim);
  keys.SetFloat("rope.freq_base", c.rope_theta);
  const bool by_layer = c.family->sliding == Sliding::kEvery;
  if (c.rope_local_scaling != RopeScaling() || (c.local_rope && !by_layer)) {
    keys.Inexpressible("rope_parameters of sliding_attention");
  }
  if (only_weights) return;
  SetGgufRopeScaling(writer, c.family->gguf, c.rope_scaling, c.path);
  if (c.rope_scaling.type != "llama3") return;
  const auto divisors =
      std::make_shared<std::vector<float>>(Llama3RopeDivisors(c.rope_theta, c.rotary_dim, c.rope_scaling));
  writer.AddTensor("rope_freqs.weight", DType::kF32, {c.rotary_dim / 2}, [divisors](int64_t, int64_t, uint8_t* dst) {
    std::memcpy(dst, divisors->data(), divisors->size() * sizeof(float));
  });
}

void SetSliding(const HfConfig& c, GgufKeys& keys) {
  if (c.sliding_window == 0) return;
  keys.SetInt("attention.sliding_window", c.sliding_window);
  const Family& family = *c.family;
  if (family.sliding != Sliding::kEvery) {
    if (std::ranges::count(c.layer_slides, 0) > 0) keys.Inexpressible("layer_types");
    return;
  }
  // The first layer that sees everything ends the period, if there is one.
  const int64_t period = std::ranges::find(c.layer_slides, 0) - c.layer_slides.begin() + 1;
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    const bool slides = (layer + 1) % period != 0;
    if (c.layer_slides[static_cast<size_t>(layer)] != slides) keys.Inexpressible("layer_types");
  }
  if (period != family.sliding_every && (period <= c.layers || c.layers >= family.sliding_every)) {
    keys.SetInt("attention.sliding_window_pattern", period);
  }
}

}  // namespace

void SetConfig(GgufWriter& writer, const HfConfig& c, bool only_weights) {
  const Family& family = *c.family;
  GgufKeys keys(writer, c, only_weights);
  if (c.activation != family.defaults.activation) keys.Inexpressible("activation");
  writer.Set("general.architecture", family.gguf);
  keys.SetInt("vocab_size", c.vocab);
  keys.SetInt("context_length", c.context);
  keys.SetInt("embedding_length", c.hidden);
  keys.SetInt("block_count", c.layers);
  keys.SetInt("feed_forward_length", c.ffn);
  keys.SetInt("attention.head_count", c.heads);
  keys.SetInt("attention.head_count_kv", c.kv_heads);
  keys.SetFloat(NormKey(family).c_str(), c.norm_eps);
  if (family.keys.head_dim != nullptr) {
    keys.SetInt("attention.key_length", c.head_dim);
    keys.SetInt("attention.value_length", c.head_dim);
  }
  if (family.traits.rope) SetRope(writer, c, keys, only_weights);
  SetSliding(c, keys);
  if (family.write_gguf != nullptr) family.write_gguf(c, keys);
}

}  // namespace cambium
