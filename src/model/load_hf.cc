#include "families/hf_config.h"
#include "io/safetensors.h"
#include "model/load.h"

namespace cambium {
namespace {

// Tensors by name, also where the checkpoint wraps the model, in "language_model." or "model.language_model."
// (multimodal ones), or is the bare base model without "model.".
class SafetensorsSource : public WeightSource {
 public:
  SafetensorsSource(const std::string& path, std::string_view base) : path_(path), file_(path), base_(base) {}
  const ShardedSafetensors& file() const { return file_; }
  std::string path() const override { return path_; }
  const Tensor* Find(const std::string& name) const override {
    for (const char* prefix : {"", "language_model."}) {
      if (const Tensor* found = file_.FindTensor(prefix + name); found != nullptr) return found;
    }
    if (!name.starts_with(base_)) return nullptr;
    for (const char* prefix : {"model.language_model.", "language_model.", ""}) {
      if (const Tensor* found = file_.FindTensor(prefix + name.substr(base_.size())); found != nullptr) return found;
    }
    return nullptr;
  }
  void Evict(const Tensor& tensor, int64_t row, int64_t rows) const noexcept override {
    file_.Evict(tensor, row, rows);
  }
  void CheckIntact() const override { file_.CheckIntact(); }

 private:
  std::string path_;
  ShardedSafetensors file_;
  std::string_view base_;  // the base model's place in the family's tree
};

}  // namespace

std::unique_ptr<ModelWeights> LoadHuggingFace(ThreadPool& pool, const std::string& directory) {
  const HfConfig hf = ReadHfConfig(directory);
  const TensorNames names(*hf.family, Dialect::kHuggingFace, hf.encoder_layers);
  ModelConfig config = MakeConfig(hf);
  const auto source = std::make_shared<const SafetensorsSource>(directory, hf.family->hf_base);
  const ShardedSafetensors& file = source->file();
  int64_t bytes = 0;
  for (const NamedTensor& tensor : file.tensors()) bytes += static_cast<int64_t>(tensor.bytes);
  CheckMemory(config, names, *source, bytes);
  const bool tied = config.tied_head;
  auto weights = PackWeights(pool, std::move(config), names, source);
  if (!tied && !weights->separate_head) {
    Fail(ErrorCode::kData, directory, ": tensor ", names.Weight(Role::kHead),
         " is missing, and tie_word_embeddings is false");
  }
  const std::string block = "model.layers." + std::to_string(weights->config.layers) + ".";
  const auto holds = [&](const std::string& name) { return file.FindTensor(name) != nullptr; };
  const bool deepseek = holds(block + "eh_proj.weight") && !holds(block + "self_attn.q_proj.bias");
  const bool qwen = holds("mtp.fc.weight") && !holds("mtp.layers.0.self_attn.q_proj.bias");
  if (deepseek || qwen) weights->mtp_source = directory;
  return weights;
}

}  // namespace cambium
