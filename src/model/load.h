#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "families/family.h"
#include "io/rope_scaling.h"
#include "model/weights.h"
#include "tensor/tensor.h"

namespace cambium {

struct HfConfig;

// Where LoadWeights finds tensors. Names are the file format's own.
class WeightSource : public StoredWeights {
 public:
  virtual std::string path() const = 0;
  virtual const Tensor* Find(const std::string& name) const = 0;  // null if absent
  virtual void Evict(const Tensor& tensor, int64_t row, int64_t rows) const noexcept = 0;
  virtual void CheckIntact() const = 0;
  void WasRead(const Tensor& tensor) const override {
    CheckIntact();
    Evict(tensor, 0, tensor.rows());
  }
};

// The names of the model's family; kData for one that is in no table.
TensorNames NamesOf(const ModelConfig& config, Dialect dialect);
// The role of the linear at a site.
Role RoleOf(const ModelConfig& config, Site site);

// What the transformer makes of a model's configuration. kData naming the file for what it cannot compute.
ModelConfig MakeConfig(const HfConfig& config);

// Packs every tensor that `config` asks for, experts' when they are first used; sets config.vocab, tied_head and config.context if positions are learned.
std::unique_ptr<ModelWeights> PackWeights(ThreadPool& pool, ModelConfig config, const TensorNames& names,
                                          std::shared_ptr<const WeightSource> from);
// The way back: tells `visit` every tensor of the weights under its name and shape in the file; `make` decodes it to
// f32 in the file's layout, and may be called until the weights change.
using VisitTensor =
    std::function<void(const std::string& name, std::vector<int64_t> shape, std::function<OwnedTensor()> make)>;
void UnpackWeights(ThreadPool& pool, const ModelWeights& weights, const TensorNames& names, const VisitTensor& visit);

// Frequencies theta^(-2i / head_dim), stretched: linear (Chen et al. 2023), llama3 (Llama 3.1's rule), yarn (Peng et
// al. 2023). `scale` multiplies cos and sin.
struct RopeTable {
  std::vector<float> inv_freq;
  float scale = 1.0f;
};
RopeTable MakeRopeTable(double theta, int64_t head_dim, const RopeScaling& scaling);

// Where a linear's rows stand in a file: rows[i] of a tensor [all, in] is the linear's row i.
struct LinearPlace {
  Role role;
  int64_t all, in;
  std::vector<int32_t> rows;

  bool whole() const { return static_cast<int64_t>(rows.size()) == all; }
};
LinearPlace PlaceOf(const ModelConfig& config, const TensorNames& names, Site site);
// The stem of the tensor that holds the linear, and maybe others: "blk.3.attn_q", "model.layers.3.self_attn.qkv_proj";
// empty where the family has none.
std::string LinearStem(const ModelConfig& config, Dialect dialect, Site site);

// kData naming `path` unless every size is positive and consistent.
void ValidateConfig(const ModelConfig& config, const std::string& path);

// kResource with the numbers unless `bytes` of weights fit in the memory that is available, experts but for those of one
// layer not counted: they may stay in the file.
void CheckMemory(const ModelConfig& config, const TensorNames& names, const WeightSource& source, int64_t bytes);

std::unique_ptr<ModelWeights> LoadGguf(ThreadPool& pool, const std::string& path);
std::unique_ptr<ModelWeights> LoadHuggingFace(ThreadPool& pool, const std::string& directory);

}  // namespace cambium
