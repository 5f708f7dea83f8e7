#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "grafts/grafts.h"

namespace cambium {

// y += b * (B (d * (A x))) at linears, with one frozen random pair A [rank, widest in], B [widest out, rank] for all of
// them, cut to each linear's sizes, and trained vectors d [rank], b [out] (Kopiczko et al., "VeRA: Vector-based Random
// Matrix Adaptation", 2024). In PEFT's files: adapter_config.json (VERA) and adapter_model.safetensors, with A and B in
// it.
class VeraGraft : public Graft {
 public:
  static std::unique_ptr<Graft> Make(const GraftOptions& options, BaseModel& model);
  static bool Recognises(const std::string& path);
  static std::unique_ptr<Graft> Load(const std::string& path, const BaseModel& model, float scale);

  std::string kind() const override { return "vera"; }
  bool ActsAt(Site site) const override { return Find(site) != nullptr; }
  void AtLinear(const GraftContext& context, Site site, Tensor x, Tensor y) override;
  void AtLinearBackward(const GraftContext& context, Site site, Tensor x, Tensor dy, Tensor dx) override;
  void VisitParams(const std::function<void(Parameter&)>& visit) override;
  void AfterUpdate() override;
  int64_t LowestLayer() const override { return terms_.empty() ? model_.config().layers : terms_.front()->site.layer; }
  bool mergeable() const override { return true; }
  void MergeInto(Site site, Tensor weight) override;
  void Save(const std::string& path) override;

 private:
  struct Term {
    Site site;
    OwnedTensor d_values, b_values;  // [rank], [out]
    Parameter d, b;
    // Made from them when they are needed again: d * A [rank, in], and b * B transposed [rank, out].
    bool stale = true;
    OwnedTensor down, up;
  };

  explicit VeraGraft(const BaseModel& model) : model_(model) {}
  Term* Find(Site site) const;
  Term& Add(Site site);
  void SetShared(int64_t rank, int64_t in, int64_t out);
  Tensor DownOf(int64_t in);  // A cut to `in` columns
  void Refresh(Term& term);

  const BaseModel& model_;
  std::string base_, task_type_ = "CAUSAL_LM";
  float scale_ = 1;
  OwnedTensor a_, b_;                         // shared: [rank, widest in], [widest out, rank]
  std::map<int64_t, OwnedTensor> a_cut_;      // by columns
  std::vector<std::unique_ptr<Term>> terms_;  // by layer, then site
};

}  // namespace cambium
