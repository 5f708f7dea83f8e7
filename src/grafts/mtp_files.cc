// MTP weights in mtp.safetensors: DeepSeek-V3's names (model.layers.{N}.eh_proj ...), read under Qwen3-Next's as well
// (mtp.fc ...), and extra_heads.{k}.* for Meta's parallel heads.
#include <filesystem>

#include "cambium/error.h"
#include "grafts/mtp.h"

namespace cambium {
namespace {

constexpr int64_t kMostDepths = 16;
constexpr const char* kWeights = "/mtp.safetensors";

std::string ChainedName(const Transformer& model) { return "model.layers." + std::to_string(model.config().layers) + "."; }

// The same tensor as Qwen's checkpoints call it.
std::string QwenName(const std::string& part) {
  for (const auto& [deepseek, qwen] : {std::pair{"eh_proj.weight", "mtp.fc.weight"},
                                       {"enorm.weight", "mtp.pre_fc_norm_embedding.weight"},
                                       {"hnorm.weight", "mtp.pre_fc_norm_hidden.weight"},
                                       {"shared_head.norm.weight", "mtp.norm.weight"}}) {
    if (part == deepseek) return qwen;
  }
  return "mtp.layers.0." + part;
}

}  // namespace

MtpHeads::MtpHeads(Transformer& model, HeadsFile file, int64_t depths, bool chained)
    : model_(model),
      file_(std::move(file)),
      readout_(model, file_.draft_tokens, file_.end_tokens, "mtp"),
      depths_(depths),
      chained_(chained) {
  for (int64_t k = 0; k < (chained ? 1 : depths); ++k) {
    const std::string name = chained ? ChainedName(model) : "extra_heads." + std::to_string(k) + ".";
    modules_.push_back(std::make_unique<MtpModule>(model, chained, name));
  }
}

std::unique_ptr<Graft> MtpHeads::Make(const GraftOptions& options, Transformer& model) {
  if (options.heads < 1 || options.heads > kMostDepths) {
    Fail(ErrorCode::kUsage, "heads is ", options.heads, ", expected 1 to ", kMostDepths);
  }
  HeadsFile file{.kind = "mtp", .base = options.base, .hidden = model.config().hidden, .vocab = model.config().vocab,
                 .draft_tokens = options.draft_tokens, .end_tokens = options.end_tokens};
  file.more = {{"depths", options.heads}};
  auto heads = std::unique_ptr<MtpHeads>(new MtpHeads(model, std::move(file), options.heads, !options.parallel));
  heads->Pack(false);
  return heads;
}

bool MtpHeads::Recognises(const std::string& path) { return std::filesystem::exists(path + kWeights); }

std::unique_ptr<Graft> MtpHeads::Load(const std::string& path, Transformer& model, float scale) {
  if (scale != 1) Fail(ErrorCode::kUsage, path, ": draft heads have no scale, ", scale, " was asked for");
  HeadsFile described = ReadHeadsFile(path, model);
  const SafetensorsFile file(path + kWeights);
  int64_t parallel = 0;
  while (file.FindTensor("extra_heads." + std::to_string(parallel) + ".mlp.up_proj.weight") != nullptr) ++parallel;
  std::string prefix;
  for (const NamedTensor& tensor : file.tensors()) {
    if (tensor.name.ends_with(".eh_proj.weight")) {
      if (!prefix.empty()) Fail(ErrorCode::kData, file.path(), ": several MTP modules; one that is used again is supported");
      prefix = tensor.name.substr(0, tensor.name.size() - std::string("eh_proj.weight").size());
    }
  }
  const bool qwen = file.FindTensor("mtp.fc.weight") != nullptr;
  if (parallel == 0 && prefix.empty() && !qwen) {
    Fail(ErrorCode::kData, file.path(), ": no tensor eh_proj.weight, mtp.fc.weight or extra_heads.0.*");
  }
  int64_t depths = parallel > 0 ? parallel : 4;
  if (const auto found = described.more.find("depths"); parallel == 0 && found != described.more.end()) {
    depths = found->is_number_integer() ? found->get<int64_t>() : 0;
  }
  if (depths < 1 || depths > kMostDepths) {
    Fail(ErrorCode::kData, path, ": ", depths, " depths, expected 1 to ", kMostDepths);
  }
  described.kind = "mtp";
  described.hidden = model.config().hidden;
  described.vocab = model.config().vocab;
  described.more["depths"] = depths;
  auto heads = std::unique_ptr<MtpHeads>(new MtpHeads(model, std::move(described), depths, parallel == 0));
  heads->VisitParams([&](Parameter& param) {
    std::string name = param.name;
    if (heads->chained_) {
      const std::string part = name.substr(ChainedName(model).size());
      name = qwen ? QwenName(part) : prefix + part;
    }
    ReadHeadTensor(model.pool(), file, name, param.value);
  });
  file.CheckIntact();
  heads->Pack(false);
  return heads;
}

void MtpHeads::Save(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) Fail(ErrorCode::kResource, path, ": cannot make the directory: ", error.message());
  std::vector<TensorToWrite> tensors;
  VisitParams([&](Parameter& param) { tensors.push_back({.name = param.name, .view = param.value}); });
  WriteSafetensors(path + kWeights, std::move(tensors), {{"format", "pt"}});
  WriteHeadsFile(path, file_);
}

void MtpHeads::VisitParams(const std::function<void(Parameter&)>& visit) {
  for (const auto& module : modules_) module->VisitParams(visit);
}

void MtpHeads::Pack(bool frozen) {
  for (const auto& module : modules_) module->Pack(frozen);
}

}  // namespace cambium
