#pragma once

#include <memory>
#include <string>
#include <vector>

#include "grafts/head_parts.h"

namespace cambium {

// Medusa heads (Cai et al. 2024): head k guesses token t + 2 + k from the hidden state after the final norm, through
// residual blocks and the base's output head ("version 2"), or an output head of its own ("version 1").
class MedusaHeads : public Heads {
 public:
  // options.heads, options.own_heads, options.draft_tokens, options.end_tokens.
  static std::unique_ptr<Graft> Make(const GraftOptions& options, BaseModel& model);
  static bool Recognises(const std::string& path);
  // A directory with medusa_lm_head.safetensors, config.json where there is one, and heads.json where Cambium wrote it.
  static std::unique_ptr<Graft> Load(const std::string& path, const BaseModel& model, float scale);

  std::string kind() const override { return "medusa"; }
  int64_t depths() const override { return static_cast<int64_t>(heads_.size()); }
  void Forward(const GraftContext& context, int64_t depth, const HeadStep& step, Tensor features, Tensor state) override;
  void Backward(const GraftContext& context, int64_t depth, const HeadStep& step, Tensor dfeatures, Tensor dstate,
                Tensor dinput) override;
  const PackedMatrix& readout(int64_t depth) const override;
  Tensor readout_gradient(int64_t depth) override;
  std::span<const int32_t> draft_tokens() const override { return readout_.ids(); }
  void Freeze() override { Pack(true); }
  void VisitParams(const std::function<void(Parameter&)>& visit) override;
  void AfterUpdate() override { Pack(false); }
  void Save(const std::string& path) override;

 private:
  struct Head {
    std::vector<ResBlock> blocks;
    std::unique_ptr<TrainedMatrix> own;  // version 1: [draft vocabulary, hidden]
    PackedMatrix own_packed;
  };
  MedusaHeads(const BaseModel& model, HeadsFile file, int64_t heads, int64_t blocks, bool own);
  void Pack(bool frozen);

  const BaseModel& model_;
  HeadsFile file_;
  DraftReadout readout_;
  std::vector<Head> heads_;
};

}  // namespace cambium
