#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "grafts/lora.h"
#include "io/safetensors.h"

namespace cambium {

// What fine-tuning changed, as a graft: low-rank terms at linears, and whole the parameters that no linear's matrix
// holds (norms, biases, embedding, a head of its own). On disk PEFT's directory of the terms, and whole.safetensors
// with the tuned values under checkpoints' names ("layers.0.attention_norm", "embedding").
class DeltaGraft : public Graft {
 public:
  static bool Recognises(const std::string& path);
  // `scale` multiplies every difference.
  static std::unique_ptr<Graft> Load(const std::string& path, const BaseModel& model, float scale);
  // Terms (may be null: none) and the file of whole values.
  DeltaGraft(std::unique_ptr<Graft> terms, const std::string& whole, const BaseModel& model, float scale);

  std::string kind() const override { return "delta"; }
  void AtEmbedding(const GraftContext& context, std::span<const int32_t> tokens, Tensor x) override;
  bool ActsAtNorm(int layer, NormKind kind) const override { return norms_.contains({layer, kind}); }
  void AtNorm(const GraftContext& context, int layer, NormKind kind, Tensor y) override;
  bool ActsAt(Site site) const override;
  void AtLinear(const GraftContext& context, Site site, Tensor x, Tensor y) override;
  bool ActsAtHead() const override { return embedding_ || head_; }
  void AtHead(const GraftContext& context, Tensor hidden, Tensor logits) override;
  void VisitParams(const std::function<void(Parameter&)>&) override {}
  bool mergeable() const override { return true; }
  void MergeInto(Site site, Tensor weight) override;
  OwnedTensor MergedWhole(const std::string& gguf_name) const override;
  void Save(const std::string& path) override;

 private:
  // y factor + shift, by column: a norm's result with another gain and bias.
  struct Affine {
    OwnedTensor factor, shift;
  };
  Tensor Need(const std::string& name, std::initializer_list<int64_t> shape) const;
  PackedMatrix Difference(Tensor tuned, const PackedMatrix& base) const;
  void ReadNorm(const std::string& name, const std::string& gguf_stem, int layer, NormKind kind,
                const NormWeights& base);

  const BaseModel& model_;
  std::unique_ptr<Graft> terms_;
  std::shared_ptr<SafetensorsFile> whole_;
  float scale_;
  std::map<std::pair<int, NormKind>, Affine> norms_;
  std::map<int, OwnedTensor> biases_;              // by layer * kSiteKinds + kind: the difference
  PackedMatrix embedding_, head_;                  // differences, bf16
  std::map<std::string, std::string> gguf_names_;  // of the whole tensors: to their names here
};

}  // namespace cambium
