#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "grafts/grafts.h"

namespace cambium {

// Keys (after RoPE) and values of the base over a text at positions 0, 1, ..., as the cache holds them:
// [layers, 2, ids, kv_heads * head_dim]. `kv_type` is what a cache rounds them to on their way up through the layers.
OwnedTensor KeysAndValuesOf(BaseModel& base, std::span<const int32_t> ids, Compute compute, DType kv_type);

// Prefix tuning (Li & Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", 2021): trained keys and
// values in the first slots of every layer's cache, not rotated by RoPE; the text takes positions `length`, length + 1,
// ... In PEFT's files: adapter_config.json (PREFIX_TUNING) and adapter_model.safetensors.
//
// With an MLP the trained values are embedding -> linear -> tanh -> linear (section 4.3 of the paper). The MLP is part of
// the parameters, so a checkpoint holds it and training resumes; Save writes only what comes out of it.
class PrefixGraft : public Graft {
 public:
  static std::unique_ptr<Graft> Make(const GraftOptions& options, BaseModel& model);
  static bool Recognises(const std::string& path);
  static std::unique_ptr<Graft> Load(const std::string& path, const BaseModel& model, float scale);
  // A prefix that acts as `ids` before the text do: with the compute and cache that it is then served by, exactly.
  static std::unique_ptr<PrefixGraft> Compile(BaseModel& model, std::span<const int32_t> ids, Compute compute,
                                              DType kv_type);

  std::string kind() const override { return "prefix"; }
  int64_t prefix_length() const override { return length_; }
  Kv PrefixKv(int layer) override;
  void PrefixKvBackward(int layer, Tensor dk, Tensor dv) override;
  void VisitParams(const std::function<void(Parameter&)>& visit) override;
  void AfterUpdate() override;
  void Save(const std::string& path) override;

  void set_base(std::string base) { base_ = std::move(base); }  // what the config names as the base model

 private:
  // values = w2 tanh(w1 embedding + b1) + b2, a row a virtual token.
  struct Mlp {
    OwnedTensor embedding, w1, b1, w2, b2;  // [length, in], [width, in], [width], [layers * 2 * in, width], [...]
    Parameter params[5];
    OwnedTensor before_tanh, hidden;  // [length, width], of the last update
    OwnedTensor dvalues;              // as values_: what the layers of one backward leave
  };

  PrefixGraft(const BaseModel& model, int64_t length);
  int64_t columns() const { return model_.config().kv_heads * model_.config().head_dim; }
  // Keys (part 0) or values (1) of one layer, [length, columns].
  Tensor Part(const OwnedTensor& all, int64_t layer, int64_t part) const;
  void AddMlp(int64_t width, uint64_t seed, bool zero);
  void FitMlp();      // makes the MLP give values_
  void RunMlp();      // values_ from the MLP
  void MlpBackward();

  const BaseModel& model_;
  int64_t length_;
  std::string base_, task_type_ = "CAUSAL_LM";
  OwnedTensor values_;  // [layers, 2, length, columns]
  Parameter param_;     // values_, where there is no MLP
  std::unique_ptr<Mlp> mlp_;
};

}  // namespace cambium
