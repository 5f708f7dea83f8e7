#pragma once

#include <functional>
#include <string>
#include <vector>

#include "io/hf_config.h"
#include "model/weights.h"
#include "tensor/tensor.h"

namespace cambium {

// Where LoadWeights finds tensors. Names are the file format's own.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual std::string path() const = 0;
  virtual const Tensor* Find(const std::string& name) const = 0;  // null if absent
  virtual void Evict(const Tensor& tensor, int64_t row, int64_t rows) const noexcept = 0;
  virtual void CheckIntact() const = 0;
};

// What a family calls its tensors, and how the file keeps them. "{}" is the layer.
struct TensorNames {
  const char *embedding = nullptr, *positions = nullptr, *final_norm = nullptr, *head = nullptr;
  const char *attention_norm = nullptr, *attention_post_norm = nullptr, *ffn_norm = nullptr, *ffn_post_norm = nullptr;
  const char *q_norm = nullptr, *k_norm = nullptr;
  const char* linears[kSiteKinds] = {};
  const char* fused_qkv = nullptr;                    // one matrix of q, k and v rows; null if they are separate
  const char *weight = ".weight", *bias = ".bias";    // suffixes
  bool permuted_qk = false;       // rows of q and k are in GGUF's interleaved RoPE order (llama)
  bool transposed = false;        // linears are stored [in, out] (GPT-2's Conv1D)
  float norm_offset = 0.0f;       // added to stored RmsNorm gains (Gemma's 1)
};

TensorNames GgufNames(const std::string& architecture);  // general.architecture
TensorNames HfNames(const std::string& family);          // HfConfig's

// Packs every tensor that `config` asks for; sets config.vocab, tied_head and config.context if positions are learned.
std::unique_ptr<ModelWeights> PackWeights(ThreadPool& pool, ModelConfig config, const TensorNames& names,
                                          const WeightSource& source);
// The way back: tells `visit` every tensor of the weights under its name and shape in the file; `make` decodes it to
// f32 in the file's layout, and may be called until the weights change.
using VisitTensor =
    std::function<void(const std::string& name, std::vector<int64_t> shape, std::function<OwnedTensor()> make)>;
void UnpackWeights(ThreadPool& pool, const ModelWeights& weights, const TensorNames& names, const VisitTensor& visit);

// Frequencies theta^(-2i / head_dim), stretched: linear (Chen et al. 2023), llama3 (Llama 3.1's rule), yarn (Peng et al.
// 2023). `scale` multiplies cos and sin.
struct RopeTable {
  std::vector<float> inv_freq;
  float scale = 1.0f;
};
RopeTable MakeRopeTable(double theta, int64_t head_dim, const RopeScaling& scaling);

// GGUF keeps the two halves of a head of q and k interleaved (llama): the file's row of each of our rows.
std::vector<int32_t> UnpermutedRows(int64_t heads, int64_t head_dim);
// That order where a GGUF file of this family has it at the site; else empty.
std::vector<int32_t> GgufRowOrder(const ModelConfig& config, SiteKind kind);
// "blk.3.attn_q.weight"
std::string GgufLinearName(Site site);

// kData naming `path` unless every size is positive and consistent.
void ValidateConfig(const ModelConfig& config, const std::string& path);

// kResource with the numbers unless `bytes` of weights fit in the memory that is available.
void CheckMemory(const std::string& path, int64_t bytes);

std::unique_ptr<ModelWeights> LoadGguf(ThreadPool& pool, const std::string& path);
std::unique_ptr<ModelWeights> LoadHuggingFace(ThreadPool& pool, const std::string& directory);

}  // namespace cambium
