#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "grafts/grafts.h"

namespace cambium {

// Full fine-tuning: every weight of the base is a parameter. The base's matrices are decoded, whatever they were stored
// in, and packed again in the working type after each step, so that the one forward reads what was trained; the values
// here are the fp32 masters. Linears' gradients come through AtLinearBackward, the others through the gradient hooks.
class FullGraft : public Graft {
 public:
  FullGraft(const GraftOptions& options, BaseModel& model);
  static std::unique_ptr<Graft> Make(const GraftOptions& options, BaseModel& model);

  std::string kind() const override { return "full"; }
  bool ActsAt(Site) const override { return true; }
  void AtLinearBackward(const GraftContext& context, Site site, Tensor x, Tensor dy, Tensor dx) override;
  NormGradient NormGradientOf(int layer, NormKind kind) override;
  Tensor EmbeddingGradient() override { return embedding_->grad; }
  Tensor PositionsGradient() override { return positions_ != nullptr ? positions_->grad : Tensor(); }
  Tensor EncoderPositionsGradient() override { return encoder_positions_ != nullptr ? encoder_positions_->grad : Tensor(); }
  Tensor HeadGradient() override { return head_ != nullptr ? head_->grad : embedding_->grad; }
  void VisitParams(const std::function<void(Parameter&)>& visit) override;
  void AfterUpdate() override;
  // The whole model, f32: `path`/model.gguf, or a Hugging Face directory's files where the base is one.
  void Save(const std::string& path) override;

 private:
  struct Matrix {
    PackedMatrix* packed;
    OwnedTensor values;  // [out, in]
  };
  struct LinearParams {
    Parameter *weight = nullptr, *bias = nullptr;
  };
  struct NormParams {
    Parameter *gain = nullptr, *bias = nullptr;
  };
  Parameter* Add(const std::string& name, Tensor value, bool decay);
  Parameter* AddMatrix(const std::string& name, PackedMatrix& packed);
  NormParams AddNorm(const std::string& name, NormWeights& norm);

  BaseModel& model_;
  GraftOptions options_;
  std::vector<std::unique_ptr<Parameter>> params_;
  std::vector<Matrix> matrices_;
  std::vector<LinearParams> linears_;  // [layers * kSiteKinds]
  std::map<std::pair<int, NormKind>, NormParams> norms_;
  Parameter *embedding_ = nullptr, *positions_ = nullptr, *encoder_positions_ = nullptr, *head_ = nullptr;
};

}  // namespace cambium
