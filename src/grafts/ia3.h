#pragma once

#include <memory>
#include <string>
#include <vector>

#include "grafts/grafts.h"

namespace cambium {

// IA3 (Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning", 2022): the
// results of linears times trained factors, one for each value. PEFT's "feedforward" modules scale their input instead;
// down_proj's input is act(gate) * up, so that its factors act on the result of up. In PEFT's files: adapter_config.json
// (IA3) and adapter_model.safetensors.
class Ia3Graft : public Graft {
 public:
  static std::unique_ptr<Graft> Make(const GraftOptions& options, BaseModel& model);
  static bool Recognises(const std::string& path);
  static std::unique_ptr<Graft> Load(const std::string& path, const BaseModel& model, float scale);

  std::string kind() const override { return "ia3"; }
  bool ActsAt(Site site) const override;
  void AtLinear(const GraftContext& context, Site site, Tensor x, Tensor y) override;
  void AtLinearBackward(const GraftContext& context, Site site, Tensor x, Tensor dy, Tensor dx) override;
  void VisitParams(const std::function<void(Parameter&)>& visit) override;
  int64_t LowestLayer() const override { return factors_.empty() ? model_.config().layers : factors_.front()->module.layer; }
  void Save(const std::string& path) override;

 private:
  struct Factors {
    Site module;      // as PEFT names it
    SiteKind acts;    // the linear whose result they multiply
    bool input;       // of the module's input, [1, in] in the file; else [out, 1]
    OwnedTensor values;
    Parameter param;
  };

  explicit Ia3Graft(const BaseModel& model) : model_(model) {}
  Factors& Add(Site module, bool input);

  const BaseModel& model_;
  std::string base_, task_type_ = "CAUSAL_LM";
  std::vector<std::unique_ptr<Factors>> factors_;  // by layer, then site
};

}  // namespace cambium
