#include "families/gguf_config.h"
#include "io/gguf.h"
#include "model/load.h"

namespace cambium {
namespace {

class GgufSource : public WeightSource {
 public:
  explicit GgufSource(const std::string& path) : file_(path) {}
  const GgufFile& file() const { return file_; }
  std::string path() const override { return file_.path(); }
  const Tensor* Find(const std::string& name) const override { return file_.FindTensor(name); }
  void Evict(const Tensor& tensor, int64_t row, int64_t rows) const noexcept override {
    file_.Evict(tensor, row, rows);
  }
  void CheckIntact() const override { file_.CheckIntact(); }

 private:
  GgufFile file_;
};

}  // namespace

std::unique_ptr<ModelWeights> LoadGguf(ThreadPool& pool, const std::string& path) {
  const auto source = std::make_shared<const GgufSource>(path);
  const GgufFile& file = source->file();
  const HfConfig described = ReadGgufConfig(file);
  const TensorNames names(*described.family, Dialect::kGguf);
  ModelConfig config = MakeConfig(described);
  CheckMemory(config, names, *source, static_cast<int64_t>(file.size()));
  auto weights = PackWeights(pool, std::move(config), names, source);
  const std::string block = "blk." + std::to_string(weights->config.layers);
  const auto holds = [&](const char* name) { return file.FindTensor(block + name) != nullptr; };
  if (holds(".nextn.eh_proj.weight") && !holds(".attn_q.bias")) weights->mtp_source = path;
  return weights;
}

}  // namespace cambium
