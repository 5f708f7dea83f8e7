#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "io/convert_config.h"
#include "io/gguf.h"
#include "io/known_keys.h"
#include "model/load.h"
#include "tensor/quantize.h"

namespace cambium {
namespace {

constexpr TensorNames kNames = {
    .embedding = "token_embd", .positions = "position_embd", .final_norm = "output_norm", .head = "output",
    .attention_norm = "blk.{}.attn_norm", .attention_post_norm = "blk.{}.post_attention_norm",
    .ffn_norm = "blk.{}.ffn_norm", .ffn_post_norm = "blk.{}.post_ffw_norm",
    .q_norm = "blk.{}.attn_q_norm", .k_norm = "blk.{}.attn_k_norm",
    .linears = {"blk.{}.attn_q", "blk.{}.attn_k", "blk.{}.attn_v", "blk.{}.attn_output", "blk.{}.ffn_gate",
                "blk.{}.ffn_up", "blk.{}.ffn_down"},
    .fused_qkv = nullptr, .weight = ".weight", .bias = ".bias"};

class GgufSource : public WeightSource {
 public:
  explicit GgufSource(const GgufFile& file) : file_(file) {}
  std::string path() const override { return file_.path(); }
  const Tensor* Find(const std::string& name) const override { return file_.FindTensor(name); }
  void Evict(const Tensor& tensor, int64_t row, int64_t rows) const noexcept override { file_.Evict(tensor, row, rows); }
  void CheckIntact() const override { file_.CheckIntact(); }

 private:
  const GgufFile& file_;
};

// RoPE tables from the scaling keys and, for Llama 3, the rope_freqs.weight tensor of per-pair divisors.
void ReadRope(const GgufFile& file, const std::string& arch, ModelConfig& c) {
  const double theta = file.F64(arch + ".rope.freq_base", 10000.0);
  if (!(theta > 0)) Fail(ErrorCode::kData, file.path(), ": ", arch, ".rope.freq_base is ", theta);
  const int64_t rotated = static_cast<int64_t>(file.U64(arch + ".rope.dimension_count", static_cast<uint64_t>(c.head_dim)));
  if (rotated != c.head_dim) {
    Fail(ErrorCode::kData, file.path(), ": ", arch, ".rope.dimension_count is ", rotated, ", the head dimension is ",
         c.head_dim, "; partial rotation is not supported");
  }
  const RopeTable table = MakeRopeTable(theta, c.head_dim, ReadGgufRopeScaling(file, arch, c.context));
  c.inv_freq = table.inv_freq;
  c.rope_scale = table.scale;
  if (const Tensor* divisors = file.FindTensor("rope_freqs.weight"); divisors != nullptr) {
    if (divisors->size() != c.head_dim / 2) {
      Fail(ErrorCode::kData, file.path(), ": rope_freqs.weight has ", divisors->size(), " values, expected ",
           c.head_dim / 2);
    }
    std::vector<float> values(c.inv_freq.size());
    Dequantize(divisors->dtype, divisors->data, values.data(), divisors->size());
    for (size_t i = 0; i < values.size(); ++i) c.inv_freq[i] /= values[i];
  }
}

ModelConfig ReadConfig(const GgufFile& file, TensorNames& names) {
  ModelConfig c;
  const std::string arch = file.Str("general.architecture");
  const auto count = [&](const char* key, std::optional<uint64_t> fallback = {}) {
    const uint64_t value = file.U64(arch + key, fallback);
    if (value > uint64_t{1} << 32) Fail(ErrorCode::kData, file.path(), ": ", arch, key, " is ", value);
    return static_cast<int64_t>(value);
  };
  CheckGgufKeys(file);
  c.family = arch;
  c.name = file.Str("general.name", "");
  names = GgufNames(arch);
  if (arch == "qwen3") {
    c.qk_norm = true;
  } else if (arch == "gemma3") {
    c.qk_norm = c.post_norms = true;
    c.activation = Activation::kGeluTanh;
  } else if (arch == "gpt2") {
    c.norm = ModelConfig::Norm::kLayer;
    c.activation = Activation::kGeluTanh;
    c.gated = c.rope = false;
    c.learned_positions = true;
  } else if (arch != "llama" && arch != "qwen2") {
    Fail(ErrorCode::kData, file.path(), ": general.architecture is \"", arch,
         "\"; supported are llama, qwen2, qwen3, gemma3 and gpt2");
  }
  if (file.U64(arch + ".expert_count", 0) > 0) {
    Fail(ErrorCode::kData, file.path(), ": ", arch, ".expert_count is ", file.U64(arch + ".expert_count"),
         "; mixtures of experts are not supported");
  }
  c.layers = count(".block_count");
  // The last blocks are modules that predict further tokens: no part of the trunk.
  const int64_t modules = count(".nextn_predict_layers", 0);
  if (modules >= c.layers && modules > 0) {
    Fail(ErrorCode::kData, file.path(), ": ", arch, ".nextn_predict_layers is ", modules, ", ", arch, ".block_count is ",
         c.layers);
  }
  c.layers -= modules;
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
  c.norm_eps = static_cast<float>(file.F64(
      arch + (c.norm == ModelConfig::Norm::kRms ? ".attention.layer_norm_rms_epsilon" : ".attention.layer_norm_epsilon")));
  ValidateConfig(c, file.path());
  if (const int64_t value = count(".attention.value_length", static_cast<uint64_t>(c.head_dim)); value != c.head_dim) {
    Fail(ErrorCode::kData, file.path(), ": ", arch, ".attention.value_length is ", value, ", key_length ", c.head_dim,
         "; they must be equal");
  }
  c.attention_scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  if (const double scale = file.F64(arch + ".attention.scale", 0.0); scale != 0) {
    if (!(scale > 0) || !std::isfinite(scale))
      Fail(ErrorCode::kData, file.path(), ": ", arch, ".attention.scale is ", scale);
    c.attention_scale = static_cast<float>(scale);
  }
  if (c.rope) ReadRope(file, arch, c);
  if (arch == "gemma3") {
    c.embedding_scale = std::sqrt(static_cast<float>(c.hidden));
    if (c.layers == 62 && !file.Find(arch + ".attention.scale"))
      c.attention_scale = 1.0f / std::sqrt(static_cast<float>(c.hidden / c.heads));  // 27B
    c.inv_freq_sliding =
        MakeRopeTable(file.F64(arch + ".rope.freq_base_swa", 10000.0), c.head_dim, {}).inv_freq;
    c.sliding_window = static_cast<int>(std::min<int64_t>(count(".attention.sliding_window", 0), std::numeric_limits<int32_t>::max()));
    c.layer_slides = GgufSlidingLayers(file, arch, c.layers);
  } else {
    c.sliding_window = static_cast<int>(std::min<int64_t>(count(".attention.sliding_window", 0), std::numeric_limits<int32_t>::max()));
  }
  return c;
}

}  // namespace

std::string GgufLinearName(Site site) {
  return fmt::format(fmt::runtime(kNames.linears[static_cast<int>(site.kind)]), site.layer) + kNames.weight;
}

std::vector<int32_t> GgufRowOrder(const ModelConfig& config, SiteKind kind) {
  if (config.family != "llama" || (kind != SiteKind::kQ && kind != SiteKind::kK)) return {};
  return UnpermutedRows(kind == SiteKind::kQ ? config.heads : config.kv_heads, config.head_dim);
}

TensorNames GgufNames(const std::string& architecture) {
  TensorNames names = kNames;
  names.permuted_qk = architecture == "llama";
  if (architecture == "gpt2") names.fused_qkv = "blk.{}.attn_qkv";
  return names;
}

std::unique_ptr<ModelWeights> LoadGguf(ThreadPool& pool, const std::string& path) {
  const GgufFile file(path);
  TensorNames names;
  ModelConfig config = ReadConfig(file, names);
  CheckMemory(path, static_cast<int64_t>(file.size()));
  auto weights = PackWeights(pool, std::move(config), names, GgufSource(file));
  const std::string block = "blk." + std::to_string(weights->config.layers);
  const auto holds = [&](const char* name) { return file.FindTensor(block + name) != nullptr; };
  if (holds(".nextn.eh_proj.weight") && !holds(".attn_q.bias")) weights->mtp_source = path;
  return weights;
}

}  // namespace cambium
