#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "grafts/grafts.h"

namespace cambium {

// Bottleneck adapters: with x the residual input of a sub-layer and h its output, h += s (W_up f(W_down z + b_down) + b_up)
// where z is h (Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", 2019: attention and feed-forward), x + h
// (Pfeiffer et al., "AdapterFusion", 2021: feed-forward) or x (parallel, He et al., "Towards a Unified View of
// Parameter-Efficient Transfer Learning", 2022: feed-forward; s is 4, or learned where scaled). In the files of
// AdapterHub's `adapters`: adapter_config.json and adapter.safetensors.
class AdapterGraft : public Graft {
 public:
  static std::unique_ptr<Graft> Make(const GraftOptions& options, BaseModel& model);
  static bool Recognises(const std::string& path);
  static std::unique_ptr<Graft> Load(const std::string& path, const BaseModel& model, float scale);

  std::string kind() const override { return "adapter"; }
  bool ActsAtBranch(int layer, Branch branch) const override { return Find(layer, branch) != nullptr; }
  void AtBranch(const GraftContext& context, int layer, Branch branch, Tensor x, Tensor h) override;
  void AtBranchBackward(const GraftContext& context, int layer, Branch branch, Tensor dh, Tensor dx) override;
  void VisitParams(const std::function<void(Parameter&)>& visit) override;
  void AfterUpdate() override;
  int64_t LowestLayer() const override;
  void Save(const std::string& path) override;

 private:
  enum class Input : uint8_t { kOutput, kSum, kResidual };  // z is h, x + h or x
  // What an AdapterHub config comes down to on a model whose norms stand before its sub-layers.
  struct Shape {
    Input input;
    Activation activation;
    bool learned_scale;
    float scale;  // if not learned
    bool attention, ffn;
  };
  struct Module {
    OwnedTensor down, down_bias, up, up_bias, scaling;  // [size, hidden], [size], [hidden, size], [hidden], [1]
    Parameter params[5];                                // the last one only where the scale is learned

    // Made from the parameters when they are needed again: up transposed, and scale * up_bias.
    bool stale = true;
    OwnedTensor up_rows, scaled_bias;  // [size, hidden], [hidden]
  };

  AdapterGraft(const BaseModel& model, nlohmann::json config, std::string name, std::string layers, float effect);
  Module* Find(int layer, Branch branch) const {
    return modules_[static_cast<size_t>(2 * layer) + static_cast<size_t>(branch)].get();
  }
  // AdapterHub's key of a module: "model.layers.3.output_adapters.adapters.NAME.".
  std::string KeyOf(int layer, Branch branch) const;
  Module& AddModule(int layer, Branch branch, int64_t size);
  void Refresh(Module& module) const;
  float ScaleOf(const Module& module) const {
    return effect_ * (shape_.learned_scale ? module.scaling.view.f32()[0] : shape_.scale);
  }
  // up [rows, hidden] = the adapter's output before the scale; keeps the bottleneck before and after the activation.
  void Run(const GraftContext& context, const Module& module, Tensor z, Tensor before, Tensor after, Tensor up) const;
  static Shape ShapeOf(const nlohmann::json& config, const std::string& path);
  // The width of the bottleneck in a layer: hidden / reduction_factor, which may be a map with a "default".
  static int64_t SizeOf(const nlohmann::json& config, int64_t hidden, int layer, const std::string& path);

  const BaseModel& model_;
  nlohmann::json config_;  // AdapterHub's BnConfig, as it was read
  std::string name_, layers_, base_;
  float effect_;           // what LoadGraft multiplies the adapter's output by
  Shape shape_;
  std::vector<std::unique_ptr<Module>> modules_;  // by layer, then branch
};

}  // namespace cambium
