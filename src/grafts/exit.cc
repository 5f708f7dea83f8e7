#include "grafts/exit.h"

#include <algorithm>
#include <filesystem>

#include "cambium/error.h"

namespace cambium {
namespace {

constexpr const char* kWeights = "/exit_head.safetensors";

}  // namespace

ExitHead::ExitHead(const BaseModel& model, HeadsFile file, int64_t layer)
    : model_(model),
      file_(std::move(file)),
      layer_(layer),
      readout_(model, file_.draft_tokens, file_.end_tokens, "exit"),
      norm_("norm.weight", model.config().hidden, 1),
      block_("linear", model.config().hidden) {
  if (model.config().norm != ModelConfig::Norm::kRms) {
    Fail(ErrorCode::kUsage, "a trained exit wants a base with RMS norms; this one is ", model.config().family);
  }
  std::copy_n(model.weights().final_norm.gain.view.f32(), model.config().hidden, norm_.param.value.f32());
}

std::unique_ptr<Graft> ExitHead::Make(const GraftOptions& options, BaseModel& model) {
  const int64_t layers = model.config().layers, layer = options.layer == 0 ? layers / 2 : options.layer;
  if (layer < 1 || layer >= layers) {
    Fail(ErrorCode::kUsage, "layer is ", options.layer, ", expected 1 to ", layers - 1, " in a model of ", layers);
  }
  HeadsFile file{.kind = "exit", .base = options.base, .hidden = model.config().hidden, .vocab = model.config().vocab,
                 .draft_tokens = options.draft_tokens, .end_tokens = options.end_tokens};
  file.more["layer"] = layer;
  auto exit = std::unique_ptr<ExitHead>(new ExitHead(model, std::move(file), layer));
  exit->AfterUpdate();
  return exit;
}

bool ExitHead::Recognises(const std::string& path) { return std::filesystem::exists(path + kWeights); }

std::unique_ptr<Graft> ExitHead::Load(const std::string& path, const BaseModel& model, float scale) {
  if (scale != 1) Fail(ErrorCode::kUsage, path, ": draft heads have no scale, ", scale, " was asked for");
  HeadsFile file = ReadHeadsFile(path, model);
  const auto field = file.more.find("layer");
  const int64_t layers = model.config().layers;
  if (field == file.more.end() || !field->is_number_integer() || *field < 1 || *field >= layers) {
    Fail(ErrorCode::kData, path, "/heads.json: field layer is ", field == file.more.end() ? "missing" : field->dump(),
         ", expected 1 to ", layers - 1, " in a model of ", layers);
  }
  const int64_t layer = field->get<int64_t>();
  auto exit = std::unique_ptr<ExitHead>(new ExitHead(model, std::move(file), layer));
  const SafetensorsFile weights(path + kWeights);
  exit->VisitParams([&](Parameter& param) { ReadHeadTensor(weights, param.name, param.value); });
  weights.CheckIntact();
  exit->AfterUpdate();
  return exit;
}

void ExitHead::Save(const std::string& path) {
  SaveHeads(*this, path, kWeights, file_);
}

void ExitHead::Forward(const GraftContext& c, int64_t, const HeadStep& step, Tensor features, Tensor) {
  const Workspace::Mark mark = c.workspace.GetMark();
  Tensor normed = c.workspace.New({step.input.rows(), step.input.columns()});
  RmsNorm(c.pool, step.input, norm_.param.value, model_.config().norm_eps, normed);
  block_.Forward(c, normed, features);
  c.workspace.Release(mark);
}

void ExitHead::Backward(const GraftContext& c, int64_t, const HeadStep& step, Tensor dfeatures, Tensor, Tensor dinput) {
  const Workspace::Mark mark = c.workspace.GetMark();
  const int64_t rows = step.input.rows(), width = step.input.columns();
  Tensor normed = c.workspace.New({rows, width}), inv = c.workspace.New({rows});
  RmsNorm(c.pool, step.input, norm_.param.value, model_.config().norm_eps, normed, inv);
  block_.Backward(c, normed, dfeatures);
  RmsNormBackward(c.pool, dfeatures, step.input, norm_.param.value, inv, dinput ? dinput : c.workspace.New({rows, width}),
                  norm_.param.grad);
  c.workspace.Release(mark);
}

void ExitHead::VisitParams(const std::function<void(Parameter&)>& visit) {
  visit(norm_.param);
  visit(block_.weight.param);
  visit(block_.bias.param);
}

}  // namespace cambium
