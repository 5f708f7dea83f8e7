#include "families/convert.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "families/convert_experts.h"
#include "families/gguf_config.h"
#include "families/hf_config.h"
#include "families/layout.h"
#include "io/atomic_file.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/tokenizer_files.h"
#include "tensor/quantize.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

// What happens to one tensor's values on the way.
struct Transform {
  DType target = DType::kF32;
  bool transposed = false;
  float added = 0;
  std::vector<int32_t> rows;  // the source's row of each of the result's; empty: the same
};

// The rows for a tensor that one dialect keeps in another order than the model has, which is the other dialect's.
std::vector<int32_t> SourceRows(const HfConfig& c, const TensorRename& rename, ConvertDirection direction) {
  const std::vector<int32_t> file = FileRows(rename.layout, rename.role, {c.heads, c.kv_heads, c.head_dim});
  const bool gguf_differs = rename.layout == Layout::kRopePairs;
  if (gguf_differs == (direction == ConvertDirection::kToHuggingFace)) return file;
  std::vector<int32_t> inverse(file.size());
  for (size_t row = 0; row < file.size(); ++row) inverse[static_cast<size_t>(file[row])] = static_cast<int32_t>(row);
  return inverse;
}

std::vector<uint8_t> Apply(const Transform& how, const Tensor& source) {
  const bool vector = source.rank == 1;
  const int64_t rows = vector ? source.columns() : source.rows(), columns = vector ? 1 : source.columns();
  if (how.target == source.dtype && !how.transposed && how.added == 0) {
    const int64_t row_bytes = source.bytes() / rows;
    std::vector<uint8_t> out(static_cast<size_t>(source.bytes()));
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(out.data() + r * row_bytes,
                  source.as<uint8_t>() + (how.rows.empty() ? r : how.rows[static_cast<size_t>(r)]) * row_bytes,
                  static_cast<size_t>(row_bytes));
    }
    return out;
  }
  const auto size = static_cast<size_t>(source.size());
  std::vector<float> values(size), ordered(size);
  Dequantize(source.dtype, source.data, values.data(), source.size());
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = values.data() + (how.rows.empty() ? r : how.rows[static_cast<size_t>(r)]) * columns;
    for (int64_t c = 0; c < columns; ++c)
      ordered[how.transposed ? c * rows + r : r * columns + c] = from[c] + how.added;
  }
  std::vector<uint8_t> out(size / Info(how.target).block * Info(how.target).bytes);
  Quantize(how.target, ordered.data(), out.data(), source.size());
  return out;
}

// The other matrices' type for a router that GGUF keeps in F32, where that loses nothing.
DType RouterType(const Tensor& router, DType others) {
  if (IsQuantized(others) || router.dtype != DType::kF32) return router.dtype;
  const auto size = static_cast<size_t>(router.size());
  std::vector<uint8_t> stored(size * static_cast<size_t>(Info(others).bytes));
  std::vector<float> back(size);
  Quantize(others, router.f32(), stored.data(), router.size());
  Dequantize(others, stored.data(), back.data(), router.size());
  return std::memcmp(back.data(), router.data, size * sizeof(float)) == 0 ? others : DType::kF32;
}

void WriteText(const std::string& path, const std::string& text) {
  AtomicFile out(path);
  out.Write(text);
  out.Commit();
}

void CheckRows(const std::string& path, const NamedTensor& tensor, const Transform& how) {
  if (!how.rows.empty() && tensor.shape[0] != static_cast<int64_t>(how.rows.size())) {
    Fail(ErrorCode::kData, path, ": tensor ", tensor.name, ": ", tensor.shape[0], " rows, the heads have ",
         how.rows.size());
  }
}

}  // namespace

std::string ConvertToGguf(const std::string& directory, const std::string& out, const ConvertProgress& progress,
                          const ToGgufOptions& options) {
  const HfConfig config = ReadHfConfig(directory);
  if (config.family->traits.encoder) {
    Fail(ErrorCode::kUsage, directory, ": GGUF has no architecture for a model with an encoder (",
         config.family->hf_type, ")");
  }
  const ShardedSafetensors source(directory);
  GgufWriter writer;
  SetConfig(writer, config, options.only_weights);
  writer.Set("general.name", fs::path(directory + "/").parent_path().filename().string());
  const std::string tokenizer = directory + "/tokenizer.json";
  if (fs::exists(tokenizer) && !options.only_weights) {
    WithTokenizerJson(tokenizer, [&](const TokenizerSpec& spec) { SetTokenizer(writer, spec, config.vocab); });
  }
  if (!options.only_weights) SetGenerationConfig(writer, directory);
  std::set<std::string> written;
  ExpertStacks experts;
  uint32_t file_type = 0, modules = 0;
  const std::vector<NamedTensor> tensors = source.tensors();
  for (const NamedTensor& tensor : tensors) {
    const TensorRename rename =
        RenameTensor(*config.family, ConvertDirection::kToGguf, MtpTensorName(tensor.name, config.layers));
    if (rename.name.empty() || (config.tied_head && rename.name == "output.weight")) continue;
    if (rename.expert < 0 && !written.insert(rename.name).second)
      Fail(ErrorCode::kData, directory, ": tensor ", rename.name, " is there twice");
    if (rename.name.ends_with(".nextn.eh_proj.weight")) ++modules;
    const Tensor view = *source.FindTensor(tensor.name);
    const bool matrix = view.rank == 2 && rename.name != "position_embd.weight";
    if (view.rank > 2 || view.size() == 0) Fail(ErrorCode::kData, directory, ": tensor ", tensor.name, " is no matrix");
    if (matrix && view.dtype == DType::kF16) file_type = 1;
    if (matrix && view.dtype == DType::kBF16) file_type = 32;
    if (rename.expert >= 0) {
      experts.Add(rename.name, rename.expert, tensor, view, config);
      continue;
    }
    // Routers are F32 in GGUF.
    const bool router = rename.role == Role::kRouter || rename.role == Role::kSharedRouter;
    Transform how;
    how.target = matrix && !router ? view.dtype : DType::kF32;
    how.transposed = rename.transposed;
    how.added = rename.gain_offset ? 1.0f : 0.0f;
    how.rows = SourceRows(config, rename, ConvertDirection::kToGguf);
    CheckRows(directory, tensor, how);
    std::vector<int64_t> shape = tensor.shape;
    if (rename.role == Role::kSharedRouter) shape = {view.size()};
    if (how.transposed) std::reverse(shape.begin(), shape.end());
    const auto made = std::make_shared<std::vector<uint8_t>>();
    writer.AddTensor(rename.name, how.target, shape, [=, &source](int64_t row, int64_t rows, uint8_t* dst) {
      const int64_t row_bytes = shape.back() * Info(how.target).bytes,
                    size = row_bytes * (shape.size() > 1 ? shape[0] : 1);
      if (row == 0) *made = Apply(how, view);
      std::memcpy(dst, made->data() + row * row_bytes, static_cast<size_t>(rows * row_bytes));
      if ((row + rows) * row_bytes == size) {
        made->clear();
        made->shrink_to_fit();
        source.Evict(view);
      }
    });
  }
  experts.Write(writer, source, config);
  writer.Set("general.file_type", file_type);
  if (modules > 0) {
    const std::string arch = config.family->gguf;
    writer.Set(arch + ".block_count", static_cast<uint32_t>(config.layers) + modules);
    writer.Set(arch + ".nextn_predict_layers", modules);
  }
  const auto check = [&](uint64_t done, uint64_t total) {
    source.CheckIntact();
    if (progress) progress(done, total);
  };
  return writer.Write(out, check, options.part_bytes);
}

void ConvertToHuggingFace(const std::string& gguf, const std::string& directory, DType dense,
                          const ConvertProgress& progress) {
  Check(dense == DType::kF32 || dense == DType::kF16 || dense == DType::kBF16, "dense is a float type");
  const GgufFile file(gguf);
  const HfConfig config = ReadGgufConfig(file);
  std::vector<TensorToWrite> tensors;
  DType widest = DType::kBF16;
  for (const NamedTensor& tensor : file.tensors()) {
    const TensorRename rename = RenameTensor(*config.family, ConvertDirection::kToHuggingFace, tensor.name);
    if (rename.name.empty()) continue;
    const Tensor view = *file.FindTensor(tensor.name);
    Transform how;
    how.target = IsQuantized(view.dtype) ? dense : view.dtype;
    const bool router = rename.role == Role::kRouter || rename.role == Role::kSharedRouter;
    if (router) how.target = RouterType(view, file.FindTensor("token_embd.weight")->dtype);
    how.transposed = rename.transposed;
    how.added = rename.gain_offset ? -1.0f : 0.0f;
    how.rows = SourceRows(config, rename, ConvertDirection::kToHuggingFace);
    CheckRows(gguf, tensor, how);
    if (view.rank >= 2 && !router) widest = how.target;
    const bool stacked = rename.name.find("{}") != std::string::npos;
    if (stacked != (view.rank == 3))
      Fail(ErrorCode::kData, gguf, ": tensor ", tensor.name, " has ", view.rank, " axes");
    const auto parts = stacked ? SplitExperts(rename.name, view) : std::vector<ExpertMatrix>{{rename.name, view}};
    for (const ExpertMatrix& part : parts) {
      TensorToWrite item{part.name, part.view, [how, from = part.view, &file] {
                           std::vector<uint8_t> bytes = Apply(how, from);
                           file.Evict(from);
                           return bytes;
                         }};
      item.view.data = nullptr;
      item.view.dtype = how.target;
      if (how.transposed) std::reverse(item.view.shape.begin(), item.view.shape.begin() + item.view.rank);
      if (rename.role == Role::kSharedRouter) item.view = Tensor(nullptr, how.target, {1, view.size()});
      tensors.push_back(std::move(item));
    }
  }
  const char* dtype = widest == DType::kF32 ? "float32" : widest == DType::kF16 ? "float16" : "bfloat16";
  const ordered_json json = HfConfigJson(config, dtype);
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) Fail(ErrorCode::kResource, directory, ": cannot create: ", error.message());
  if (file.Find("tokenizer.ggml.model") != nullptr) WriteTokenizerJson(TokenizerSpecFromGguf(file), directory);
  if (const ordered_json generation = GenerationConfigJson(file, config); !generation.empty()) {
    WriteText(directory + "/generation_config.json", generation.dump(2) + "\n");
  }
  WriteSafetensors(directory + "/model.safetensors", std::move(tensors), {{"format", "pt"}},
                   [&](uint64_t done, uint64_t total) {
                     file.CheckIntact();
                     if (progress) progress(done, total);
                   });
  WriteText(directory + "/config.json", json.dump(2) + "\n");  // last: a directory without it is no model
}

std::string RejoinGguf(const std::string& in, const std::string& out, uint64_t part_bytes,
                       const ConvertProgress& progress) {
  const GgufFile file(in);
  GgufWriter writer;
  for (const auto& [key, value] : file.metadata()) writer.Set(key, value);
  for (const NamedTensor& tensor : file.tensors()) writer.AddTensor(tensor.name, *file.FindStored(tensor.name));
  const auto check = [&](uint64_t done, uint64_t total) {
    file.CheckIntact();
    if (progress) progress(done, total);
  };
  return writer.Write(out, check, part_bytes);
}

void CopyModelFiles(const std::string& from, const std::string& to) {
  for (const char* name :
       {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "generation_config.json"}) {
    if (fs::exists(from + "/" + name)) WriteText(to + "/" + name, ReadTextFile(from + "/" + name));
  }
  const std::string named = "/additional_chat_templates";
  if (!fs::is_directory(from + named)) return;
  MakeDirectories(to + named);
  for (const fs::directory_entry& entry : fs::directory_iterator(from + named)) {
    const std::string name = named + "/" + entry.path().filename().string();
    if (entry.path().extension() == ".jinja") WriteText(to + name, ReadTextFile(from + name));
  }
}

}  // namespace cambium
