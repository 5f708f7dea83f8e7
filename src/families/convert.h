#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "families/family.h"
#include "tensor/tensor.h"

namespace cambium {

using ConvertProgress = std::function<void(uint64_t done, uint64_t total)>;

struct ToGgufOptions {
  uint64_t part_bytes = 0;    // > 0: a split model of parts of at most so many bytes (GgufWriter::Write)
  bool only_weights = false;  // of a file on the way to another directory: no tokenizer, and no field is inexpressible
};
// Writes a Hugging Face directory (config.json, safetensors, tokenizer.json and generation_config.json if there are
// any) as GGUF. Matrices keep their type, vectors become F32. kData, naming the field or tensor, for what GGUF or the
// family cannot express. Returns the path that opens it.
std::string ConvertToGguf(const std::string& directory, const std::string& out, const ConvertProgress& progress = {},
                          const ToGgufOptions& options = {});

// A GGUF model as one file, or split anew.
std::string RejoinGguf(const std::string& in, const std::string& out, uint64_t part_bytes,
                       const ConvertProgress& progress = {});

// The files of a Hugging Face directory beside its weights and config.json, as far as they are there.
void CopyModelFiles(const std::string& from, const std::string& to);

// The way back: `directory` (created) gets config.json, generation_config.json, model.safetensors and the tokenizer's
// files. Quantised matrices are decoded to `dense`: F32 (lossless), F16 or BF16.
void ConvertToHuggingFace(const std::string& gguf, const std::string& directory, DType dense,
                          const ConvertProgress& progress = {});

// What becomes of a tensor on its way between the two tables of names.
struct TensorRename {
  std::string name;          // empty: the tensor is not part of the language model's weights
  Role role = Role::kEmbedding;
  int64_t expert = -1;       // of the tensor `name` that GGUF stacks; the other way, "{}" in `name` stands for it
  bool transposed = false;   // [in, out] at Hugging Face (GPT-2's Conv1D)
  bool gain_offset = false;  // GGUF stores 1 + the gain (Gemma)
  Layout layout = Layout::kPlain;
};
enum class ConvertDirection : uint8_t { kToGguf, kToHuggingFace };
// kData for a name that the family does not know.
TensorRename RenameTensor(const Family& family, ConvertDirection direction, const std::string& name);

// A tensor of the module that predicts further tokens, under Qwen3-Next's name (mtp.fc ...), as DeepSeek-V3 calls it
// (model.layers.{layers}.eh_proj ...); another name as it is.
std::string MtpTensorName(const std::string& name, int64_t layers);

}  // namespace cambium
