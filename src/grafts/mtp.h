#pragma once

#include <memory>
#include <string>
#include <vector>

#include "grafts/head_parts.h"

namespace cambium {

// A transformer block that is trained, with what stands before and behind it: the base's own block code on a model of
// one layer, whose input this graft gives.
//
// chained (DeepSeek-V3, 2024, section 2.2): x = eh_proj [enorm(embedding of the step's token) ; hnorm(step's input)],
// embedding first and zero at position 0 as the released code has it. Else (Gloeckle et al. 2024): x = the step's input.
// features = norm(block(x)), state = block(x).
class MtpModule : public Graft {
 public:
  // Starts from the base's last block and norm.
  MtpModule(const BaseModel& base, bool chained, std::string name);

  void Forward(const GraftContext& context, const HeadStep& step, Tensor features, Tensor state);
  void Backward(const GraftContext& context, const HeadStep& step, Tensor dfeatures, Tensor dstate, Tensor dinput);
  void Pack(bool frozen);
  // Layers for the keys and values of `blocks` blocks such as this beside the trunk's; the first one's index.
  int64_t AddLayers(KvCache& kv, int64_t blocks) const {
    const ModelConfig& c = block_->config();
    return kv.AddLayers(blocks, c.kv_heads, c.head_dim, DType::kF16);
  }

  std::string kind() const override { return "mtp-module"; }
  void AtEmbedding(const GraftContext& context, std::span<const int32_t> tokens, Tensor x) override;
  void AtEmbeddingBackward(const GraftContext& context, std::span<const int32_t> tokens, Tensor dx) override;
  bool ActsAt(Site) const override { return true; }
  void AtLinear(const GraftContext&, Site, Tensor, Tensor) override {}
  void AtLinearBackward(const GraftContext& context, Site site, Tensor x, Tensor dy, Tensor dx) override;
  NormGradient NormGradientOf(int layer, NormKind kind) override;
  void VisitParams(const std::function<void(Parameter&)>& visit) override;
  void Save(const std::string&) override {}

 private:
  void AddNorm(NormKind kind, const char* name, const NormWeights& base, NormWeights& own);
  // [rows, 2 hidden] = enorm(embedding) and hnorm(input); what RmsNormBackward needs goes to the optional tensors.
  struct Joined {
    Tensor embedding, embedding_inv, input_inv, both;
  };
  Joined Join(const GraftContext& context) const;
  Pass MakePass(const GraftContext& context, const HeadStep& step);
  // Shows the block's hooks the step and the pass under way, until it goes.
  class Underway {
   public:
    Underway(MtpModule& module, const HeadStep& step, const Pass& pass, Tensor dinput = {}) : module_(module) {
      module.step_ = &step;
      module.positions_ = pass.positions;
      module.dinput_ = dinput;
    }
    ~Underway() {
      module_.step_ = nullptr;
      module_.positions_ = {};
      module_.dinput_ = {};
    }
    Underway(const Underway&) = delete;
    Underway& operator=(const Underway&) = delete;

   private:
    MtpModule& module_;
  };

  const BaseModel& base_;
  bool chained_;
  std::string name_;
  std::unique_ptr<Transformer> block_;
  std::vector<std::unique_ptr<TrainedMatrix>> linears_;  // by SiteKind; null where the family has none
  std::unique_ptr<TrainedMatrix> join_;                  // eh_proj [hidden, 2 hidden]
  std::unique_ptr<TrainedVector> enorm_, hnorm_;
  PackedMatrix join_packed_;
  struct Norm {
    NormKind kind;
    Parameter gain;
  };
  std::vector<std::unique_ptr<Norm>> norms_;
  std::vector<Graft*> self_;
  Tape tape_;
  const HeadStep* step_ = nullptr;  // of the pass under way
  std::span<const int32_t> positions_;
  Tensor dinput_;
};

// Multi-token prediction. Chained: one DeepSeek module, used again for each depth. Parallel: Meta's heads, one block for
// each depth on the trunk's last residual. Read out by the base's output head.
class MtpHeads : public Heads {
 public:
  static std::unique_ptr<Graft> Make(const GraftOptions& options, BaseModel& model);
  static bool Recognises(const std::string& path);
  // A directory with mtp.safetensors, under DeepSeek's or Qwen's names (chained) or extra_heads.* (parallel).
  static std::unique_ptr<Graft> Load(const std::string& path, const BaseModel& model, float scale);

  // The module in the model's own files (ModelWeights::mtp_source): a Hugging Face directory's, under either name, or the
  // nextn tensors of a GGUF file.
  static std::unique_ptr<Graft> LoadOwn(const BaseModel& model);
  // Writes the GGUF file `base` with the module as one more block, named as llama.cpp does (blk.N.nextn.eh_proj ...).
  // kUsage for parallel heads, for which GGUF has no place.
  void SaveWithBase(const std::string& base, const std::string& out);

  std::string kind() const override { return "mtp"; }
  int64_t depths() const override { return depths_; }
  int64_t after_layer() const override { return chained_ ? -1 : model_.config().layers - 1; }
  bool chained() const override { return chained_; }
  void Forward(const GraftContext& context, int64_t depth, const HeadStep& step, Tensor features, Tensor state) override {
    Module(depth).Forward(context, step, features, state);
  }
  void Backward(const GraftContext& context, int64_t depth, const HeadStep& step, Tensor dfeatures, Tensor dstate,
                Tensor dinput) override {
    Module(depth).Backward(context, step, dfeatures, dstate, dinput);
  }
  const PackedMatrix& readout(int64_t) const override { return readout_.matrix(); }
  std::span<const int32_t> draft_tokens() const override { return readout_.ids(); }
  void Freeze() override { Pack(true); }
  void VisitParams(const std::function<void(Parameter&)>& visit) override;
  void AfterUpdate() override { Pack(false); }
  void Save(const std::string& path) override;
  int64_t AddLayers(KvCache& kv) const override {
    return modules_.front()->AddLayers(kv, std::ssize(modules_));
  }

 private:
  MtpHeads(const BaseModel& model, HeadsFile file, int64_t depths, bool chained);
  MtpModule& Module(int64_t depth) { return *modules_[chained_ ? 0 : static_cast<size_t>(depth)]; }
  void Pack(bool frozen);

  const BaseModel& model_;
  HeadsFile file_;
  DraftReadout readout_;
  int64_t depths_;
  bool chained_;
  std::vector<std::unique_ptr<MtpModule>> modules_;
};

}  // namespace cambium
