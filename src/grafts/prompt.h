#pragma once

#include <memory>
#include <string>

#include "grafts/grafts.h"

namespace cambium {

// Prompt tuning (Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", 2021): trained embeddings
// [length, hidden] before every text, which takes positions length, length + 1, ... In PEFT's files: adapter_config.json
// (PROMPT_TUNING) and adapter_model.safetensors.
class PromptGraft : public Graft {
 public:
  static std::unique_ptr<Graft> Make(const GraftOptions& options, BaseModel& model);
  static bool Recognises(const std::string& path);
  static std::unique_ptr<Graft> Load(const std::string& path, const BaseModel& model, float scale);

  std::string kind() const override { return "prompt"; }
  int64_t prompt_length() const override { return values_.view.rows(); }
  void AtEmbedding(const GraftContext& context, std::span<const int32_t> tokens, Tensor x) override;
  void AtEmbeddingBackward(const GraftContext& context, std::span<const int32_t> tokens, Tensor dx) override;
  void VisitParams(const std::function<void(Parameter&)>& visit) override { visit(param_); }
  void Save(const std::string& path) override;

 private:
  PromptGraft(const BaseModel& model, int64_t length);

  const BaseModel& model_;
  std::string base_, task_type_ = "CAUSAL_LM";
  OwnedTensor values_;  // [length, hidden]
  Parameter param_;
};

}  // namespace cambium
