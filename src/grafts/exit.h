#pragma once

#include <memory>
#include <string>

#include "grafts/head_parts.h"

namespace cambium {

// A trained read-out of an early layer: guesses, from the residual stream after the first `layer` blocks, the next token
// itself, through a norm, a residual block and the base's output head. `--draft exit` drafts with it.
class ExitHead : public Heads {
 public:
  // options.layer (0: half of the model), options.draft_tokens, options.end_tokens.
  static std::unique_ptr<Graft> Make(const GraftOptions& options, BaseModel& model);
  static bool Recognises(const std::string& path);
  // A directory with exit_head.safetensors (norm.weight, linear.weight, linear.bias) and heads.json.
  static std::unique_ptr<Graft> Load(const std::string& path, const BaseModel& model, float scale);

  std::string kind() const override { return "exit"; }
  int64_t depths() const override { return 1; }
  int64_t first() const override { return 1; }
  int64_t after_layer() const override { return layer_ - 1; }
  void Forward(const GraftContext& context, int64_t depth, const HeadStep& step, Tensor features, Tensor state) override;
  void Backward(const GraftContext& context, int64_t depth, const HeadStep& step, Tensor dfeatures, Tensor dstate,
                Tensor dinput) override;
  const PackedMatrix& readout(int64_t) const override { return readout_.matrix(); }
  std::span<const int32_t> draft_tokens() const override { return readout_.ids(); }
  void Freeze() override { block_.Pack(model_.pool(), true); }
  void VisitParams(const std::function<void(Parameter&)>& visit) override;
  void AfterUpdate() override { block_.Pack(model_.pool(), false); }
  void Save(const std::string& path) override;

 private:
  ExitHead(const BaseModel& model, HeadsFile file, int64_t layer);

  const BaseModel& model_;
  HeadsFile file_;
  int64_t layer_;
  DraftReadout readout_;
  TrainedVector norm_;
  ResBlock block_;
};

}  // namespace cambium
