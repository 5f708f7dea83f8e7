// MTP weights in mtp.safetensors: DeepSeek-V3's names (model.layers.{N}.eh_proj ...), read under Qwen3-Next's as well
// (mtp.fc ...), and extra_heads.{k}.* for Meta's parallel heads. In a model's own files: the same names, or GGUF's nextn.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <optional>

#include "base/check.h"
#include "cambium/error.h"
#include "grafts/mtp.h"
#include "families/convert.h"
#include "families/layout.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "io/json.h"
#include "model/load.h"
#include "tensor/quantize.h"

namespace cambium {
namespace {

constexpr int64_t kMostDepths = 16;
constexpr const char* kWeights = "/mtp.safetensors";
// Ours, beside llama.cpp's nextn keys.
constexpr const char* kDepthsKey = "cambium.nextn_depths";
constexpr const char* kDraftKey = "cambium.nextn_draft_tokens";

std::string ChainedName(const BaseModel& model) { return "model.layers." + std::to_string(model.config().layers) + "."; }

// The tensor that Qwen's checkpoints have for a name of DeepSeek's.
std::string QwenName(const std::string& deepseek, int64_t layers) {
  for (const char* const name : {"mtp.fc.weight", "mtp.pre_fc_norm_embedding.weight", "mtp.pre_fc_norm_hidden.weight",
                                 "mtp.norm.weight"}) {
    if (MtpTensorName(name, layers) == deepseek) return name;
  }
  return "mtp.layers.0." + deepseek.substr(("model.layers." + std::to_string(layers) + ".").size());
}

constexpr int64_t kDepths = 4;  // guessed in a row where no file says otherwise

const Family& FamilyOf(const ModelConfig& config) { return NamesOf(config, Dialect::kGguf).family(); }

// Rows of the file of each row of ours; empty: the same.
std::vector<int32_t> RowOrder(const ModelConfig& config, const TensorRename& rename) {
  const bool gguf_differs = rename.layout == Layout::kRopePairs;
  if (!gguf_differs) return {};
  return FileRows(rename.layout, rename.role, {config.heads, config.kv_heads, config.head_dim});
}

}  // namespace

MtpHeads::MtpHeads(const BaseModel& model, HeadsFile file, int64_t depths, bool chained)
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

std::unique_ptr<Graft> MtpHeads::Make(const GraftOptions& options, BaseModel& model) {
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

std::unique_ptr<Graft> MtpHeads::Load(const std::string& path, const BaseModel& model, float scale) {
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
  int64_t depths = parallel > 0 ? parallel : kDepths;
  if (const auto found = described.more.find("depths"); parallel == 0 && found != described.more.end()) {
    depths = WholeNumber(*found, path + "/heads.json: field depths", 1, kMostDepths);
  }
  if (depths > kMostDepths) Fail(ErrorCode::kData, path, ": ", depths, " depths, expected 1 to ", kMostDepths);
  described.kind = "mtp";
  described.hidden = model.config().hidden;
  described.vocab = model.config().vocab;
  described.more["depths"] = depths;
  auto heads = std::unique_ptr<MtpHeads>(new MtpHeads(model, std::move(described), depths, parallel == 0));
  heads->VisitParams([&](Parameter& param) {
    std::string name = param.name;
    if (heads->chained_) {
      name = qwen ? QwenName(name, model.config().layers) : prefix + name.substr(ChainedName(model).size());
    }
    ReadHeadTensor(file, name, param.value);
  });
  file.CheckIntact();
  heads->Pack(false);
  return heads;
}

std::unique_ptr<Graft> MtpHeads::LoadOwn(const BaseModel& model) {
  const ModelConfig& c = model.config();
  const std::string& path = model.weights().mtp_source;
  Check(!path.empty(), "the model has a module of its own");
  const bool directory = std::filesystem::is_directory(path);
  std::optional<ShardedSafetensors> tensors;
  std::optional<GgufFile> gguf;
  HeadsFile described{.kind = "mtp", .base = c.name, .hidden = c.hidden, .vocab = c.vocab, .draft_tokens = {}, .end_tokens = {}};
  int64_t depths = kDepths;
  if (directory) {
    tensors.emplace(path);
  } else {
    gguf.emplace(path);
    depths = static_cast<int64_t>(gguf->U64(kDepthsKey, kDepths));
    if (depths < 1 || depths > kMostDepths) {
      Fail(ErrorCode::kData, path, ": ", kDepthsKey, " is ", depths, ", expected 1 to ", kMostDepths);
    }
    for (const int64_t id : gguf->Ints(kDraftKey)) {
      if (id < 0 || id >= c.vocab) Fail(ErrorCode::kData, path, ": ", kDraftKey, " holds ", id, ", the vocabulary ", c.vocab);
      described.draft_tokens.push_back(static_cast<int32_t>(id));
    }
  }
  described.more["depths"] = depths;
  const bool qwen = directory && tensors->FindTensor("mtp.fc.weight") != nullptr;
  auto heads = std::unique_ptr<MtpHeads>(new MtpHeads(model, std::move(described), depths, true));
  heads->VisitParams([&](Parameter& param) {
    const TensorRename rename = RenameTensor(FamilyOf(c), ConvertDirection::kToGguf, param.name);
    if (directory) {
      const std::string name = qwen ? QwenName(param.name, c.layers) : param.name;
      ReadHeadTensor(path, name, tensors->FindTensor(name), param.value);
      if (!rename.gain_offset) return;
      for (int64_t i = 0; i < param.value.size(); ++i) param.value.f32()[i] += 1;
      return;
    }
    const std::vector<int32_t> order = RowOrder(c, rename);
    OwnedTensor stored({param.value.rows(), param.value.columns()});
    ReadHeadTensor(path, rename.name, gguf->FindTensor(rename.name), stored.view);
    for (int64_t row = 0; row < stored.view.rows(); ++row) {
      std::copy_n(stored.view.row(order.empty() ? row : order[static_cast<size_t>(row)]), stored.view.columns(),
                  param.value.f32() + row * stored.view.columns());
    }
  });
  directory ? tensors->CheckIntact() : gguf->CheckIntact();
  heads->Pack(false);
  return heads;
}

void MtpHeads::SaveWithBase(const std::string& base, const std::string& out) {
  if (!chained_) Fail(ErrorCode::kUsage, out, ": GGUF has tensors for a module that is used again, not for parallel heads");
  const ModelConfig& c = model_.config();
  const GgufFile file(base);
  const std::string arch = file.Str("general.architecture");
  const DType type = model_.weights().embedding.dtype();
  GgufWriter writer;
  for (const auto& [key, value] : file.metadata()) writer.Set(key, value);
  writer.Set(arch + ".block_count", static_cast<uint32_t>(c.layers + 1));
  writer.Set(arch + ".nextn_predict_layers", uint32_t{1});
  writer.Set(kDepthsKey, static_cast<uint32_t>(depths_));
  if (!readout_.ids().empty()) writer.Set(kDraftKey, readout_.ids());
  for (const NamedTensor& tensor : file.tensors()) {
    const bool block = tensor.name.starts_with("blk.");
    if (block && std::strtoll(tensor.name.c_str() + 4, nullptr, 10) >= c.layers) continue;  // a module it had
    writer.AddTensor(tensor.name, *file.FindTensor(tensor.name));
  }
  VisitParams([&](Parameter& param) {
    const TensorRename rename = RenameTensor(FamilyOf(c), ConvertDirection::kToGguf, param.name);
    const Tensor values = param.value;
    const int64_t columns = values.columns();
    std::vector<int32_t> source(static_cast<size_t>(values.rows()));  // our row of each of the file's
    std::iota(source.begin(), source.end(), 0);
    const std::vector<int32_t> order = RowOrder(c, rename);
    for (size_t row = 0; row < order.size(); ++row) source[static_cast<size_t>(order[row])] = static_cast<int32_t>(row);
    const DType stored = values.rank == 1      ? DType::kF32
                         : !IsQuantized(type) ? type
                         : columns % Info(DType::kQ8_0).block == 0 ? DType::kQ8_0 : DType::kF32;
    const std::vector<int64_t> shape(values.shape.begin(), values.shape.begin() + values.rank);
    writer.AddTensor(rename.name, stored, shape, [=](int64_t row, int64_t rows, uint8_t* dst) {
      const int64_t row_bytes = columns / Info(stored).block * Info(stored).bytes;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t from = source[static_cast<size_t>(row + r)];
        Quantize(stored, values.f32() + from * columns, dst + r * row_bytes, columns);
      }
    });
  });
  writer.Write(out, [&](uint64_t, uint64_t) { file.CheckIntact(); });
}

void MtpHeads::Save(const std::string& path) {
  SaveHeads(*this, path, kWeights, file_);
}

void MtpHeads::VisitParams(const std::function<void(Parameter&)>& visit) {
  for (const auto& module : modules_) module->VisitParams(visit);
}

void MtpHeads::Pack(bool frozen) {
  for (const auto& module : modules_) module->Pack(frozen);
}

}  // namespace cambium
