#include "model/save.h"

#include <cstring>
#include <filesystem>
#include <memory>

#include "cambium/error.h"
#include "io/atomic_file.h"
#include "families/convert.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "families/hf_config.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "model/load.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;

void SaveGguf(ThreadPool& pool, const ModelWeights& weights, const std::string& base, const std::string& path) {
  const GgufFile file(base);
  GgufWriter writer;
  for (const auto& [key, value] : file.metadata()) writer.Set(key, value);
  writer.Set("general.file_type", uint32_t{0});  // all F32
  if (const std::string arch = file.Str("general.architecture"); file.Find(arch + ".nextn_predict_layers") != nullptr) {
    // A module that predicts further tokens was not trained along and stays behind.
    writer.Set(arch + ".block_count", static_cast<uint32_t>(weights.config.layers));
    writer.Set(arch + ".nextn_predict_layers", uint32_t{0});
  }
  if (const Tensor* divisors = file.FindTensor("rope_freqs.weight"); divisors != nullptr) {
    writer.AddTensor("rope_freqs.weight", *divisors);
  }
  UnpackWeights(pool, weights, NamesOf(weights.config, Dialect::kGguf),
                [&](const std::string& name, std::vector<int64_t> shape, std::function<OwnedTensor()> make) {
                  const auto made = std::make_shared<OwnedTensor>();
                  const int64_t columns = shape.back(), all = shape.size() > 1 ? shape[0] : 1;
                  writer.AddTensor(name, DType::kF32, std::move(shape),
                                   [=, make = std::move(make)](int64_t row, int64_t rows, uint8_t* dst) {
                                     if (row == 0) *made = make();
                                     std::memcpy(dst, made->view.f32() + row * columns,
                                                 static_cast<size_t>(rows * columns) * sizeof(float));
                                     if (row + rows == all) *made = OwnedTensor();
                                   });
                });
  writer.Write(path);
}

void SaveHuggingFace(ThreadPool& pool, const ModelWeights& weights, const std::string& base,
                     const std::string& directory) {
  nlohmann::json config = HfTextConfig(ParseJson(ReadTextFile(base + "/config.json"), base + "/config.json"), base);
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (config.contains(key)) config[key] = "float32";
  }
  std::vector<TensorToWrite> tensors;
  UnpackWeights(pool, weights,
                TensorNames(*ReadHfConfig(base).family, Dialect::kHuggingFace, weights.config.encoder_layers),
                [&](const std::string& name, std::vector<int64_t> shape, std::function<OwnedTensor()> make) {
                  TensorToWrite item{name, Tensor(), [make = std::move(make)] {
                                       const OwnedTensor values = make();
                                       const uint8_t* const bytes = values.view.as<uint8_t>();
                                       return std::vector<uint8_t>(bytes, bytes + values.view.bytes());
                                     }};
                  item.view.dtype = DType::kF32;
                  item.view.rank = static_cast<int>(shape.size());
                  std::copy(shape.begin(), shape.end(), item.view.shape.begin());
                  tensors.push_back(std::move(item));
                });
  WriteSafetensors(directory + "/model.safetensors", std::move(tensors), {{"format", "pt"}});
  CopyModelFiles(base, directory);
  AtomicFile out(directory + "/config.json");  // last: a directory without it is no model
  out.Write(config.dump(2) + "\n");
  out.Commit();
}

}  // namespace

std::string SaveWeights(ThreadPool& pool, const ModelWeights& weights, const std::string& base,
                        const std::string& directory) {
  MakeDirectories(directory);
  if (fs::is_directory(base)) {
    SaveHuggingFace(pool, weights, base, directory);
    return directory;
  }
  const std::string path = directory + "/model.gguf";
  SaveGguf(pool, weights, base, path);
  return path;
}

}  // namespace cambium
