#pragma once

#include <memory>
#include <string>
#include <vector>

#include "grafts/grafts.h"

namespace cambium {

// y += scale * B (A dropout(x)) at linears of the base (Hu et al., "LoRA", 2021), in PEFT's files:
// adapter_config.json and adapter_model.safetensors.
class LoraGraft : public Graft {
 public:
  // A uniform in +-1/sqrt(in) (PEFT's Kaiming init), B zero.
  LoraGraft(const GraftOptions& options, Transformer& model);
  static std::unique_ptr<Graft> Make(const GraftOptions& options, Transformer& model);
  static bool Recognises(const std::string& path);
  static std::unique_ptr<Graft> Load(const std::string& path, Transformer& model, float scale);

  std::string kind() const override { return "lora"; }
  bool ActsAt(Site site) const override { return Find(site) != nullptr; }
  void AtLinear(const GraftContext& context, Site site, Tensor x, Tensor y) override;
  void AtLinearBackward(const GraftContext& context, Site site, Tensor x, Tensor dy, Tensor dx) override;
  void VisitParams(const std::function<void(Parameter&)>& visit) override;
  int64_t LowestLayer() const override;
  bool MergeInto(const std::function<Tensor(Site)>& weight) override;
  void Save(const std::string& path) override;

 private:
  // The low-rank term of one linear: a [rank, in], b [out, rank].
  struct Term {
    Site site;
    int64_t in, out, rank;
    float scale;  // of the product, as the file has it times what LoadGraft was asked for
    OwnedTensor a_values, b_values;
    Parameter a, b;
  };
  LoraGraft(Transformer& model, const GraftOptions& options, std::vector<std::unique_ptr<Term>> terms);
  static std::unique_ptr<Term> MakeTerm(const Transformer& model, Site site, int64_t rank, float scale);
  Term* Find(Site site) const {
    return by_site_[static_cast<size_t>(site.layer * kSiteKinds) + static_cast<size_t>(site.kind)];
  }
  void Index();
  // x with dropout's zeros, or x itself when there is none.
  Tensor Dropped(const GraftContext& context, const Term& term, Tensor x) const;
  void MaskGradient(const GraftContext& context, const Term& term, Tensor dx) const;

  Transformer& model_;
  GraftOptions options_;
  std::vector<std::unique_ptr<Term>> terms_;  // by layer, then kind
  std::vector<Term*> by_site_;
};

}  // namespace cambium
