#include "io/convert.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "io/atomic_file.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "io/hf_config.h"
#include "io/safetensors.h"
#include "io/tokenizer_files.h"
#include "tensor/quantize.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int64_t kGemmaPattern = 6;  // every sixth layer sees everything; GGUF's gemma3 knows no other

// What happens to one tensor's values on the way.
struct Transform {
  DType target = DType::kF32;
  bool transposed = false;
  float added = 0;
  int64_t heads = 0;  // > 0: rows of a head change between halves and pairs
  bool to_pairs = false;
};

// Row of the source that becomes row `row` of the result, with `rows` in all.
int64_t SourceRow(const Transform& how, int64_t rows, int64_t row) {
  if (how.heads == 0) return row;
  const int64_t head_dim = rows / how.heads, half = head_dim / 2, head = row / head_dim, r = row % head_dim;
  return head * head_dim + (how.to_pairs ? r % 2 * half + r / 2 : r % half * 2 + r / half);
}

std::vector<uint8_t> Apply(const Transform& how, const Tensor& source) {
  const bool vector = source.rank == 1;
  const int64_t rows = vector ? source.columns() : source.rows(), columns = vector ? 1 : source.columns();
  if (how.target == source.dtype && !how.transposed && how.added == 0) {
    const int64_t row_bytes = source.bytes() / rows;
    std::vector<uint8_t> out(static_cast<size_t>(source.bytes()));
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(out.data() + r * row_bytes, source.as<uint8_t>() + SourceRow(how, rows, r) * row_bytes,
                  static_cast<size_t>(row_bytes));
    }
    return out;
  }
  const auto size = static_cast<size_t>(source.size());
  std::vector<float> values(size), ordered(size);
  Dequantize(source.dtype, source.data, values.data(), source.size());
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = values.data() + SourceRow(how, rows, r) * columns;
    for (int64_t c = 0; c < columns; ++c)
      ordered[how.transposed ? c * rows + r : r * columns + c] = from[c] + how.added;
  }
  std::vector<uint8_t> out(size / Info(how.target).block * Info(how.target).bytes);
  Quantize(how.target, ordered.data(), out.data(), source.size());
  return out;
}

void CheckHeads(const std::string& path, const NamedTensor& tensor, const Transform& how) {
  if (how.heads > 0 && tensor.shape[0] % (2 * how.heads) != 0) {
    Fail(ErrorCode::kData, path, ": tensor ", tensor.name, ": ", tensor.shape[0], " rows for ", how.heads, " heads");
  }
}

[[noreturn]] void Inexpressible(const std::string& path, std::string_view field) {
  Fail(ErrorCode::kData, path, ": ", field, " has a value that GGUF cannot express");
}

std::string Architecture(const std::string& family) {
  return family == "gemma3_text" ? "gemma3" : family == "mistral" ? "llama" : family;
}

// HfConfig as GGUF metadata; with llama3 scaling, also the tensor of divisors.
void SetConfig(GgufWriter& writer, const HfConfig& c) {
  const std::string arch = Architecture(c.family), dot = arch + ".";
  const bool gpt2 = c.family == "gpt2", gemma = c.family == "gemma3_text";
  const auto set = [&](const char* key, int64_t value) { writer.Set(dot + key, static_cast<uint32_t>(value)); };
  if (c.activation != (gpt2 ? "gelu_new" : gemma ? "gelu_pytorch_tanh" : "silu")) Inexpressible(c.path, "activation");
  writer.Set("general.architecture", arch);
  set("vocab_size", c.vocab);
  set("context_length", c.context);
  set("embedding_length", c.hidden);
  set("block_count", c.layers);
  set("feed_forward_length", c.ffn);
  set("attention.head_count", c.heads);
  set("attention.head_count_kv", c.kv_heads);
  writer.Set(dot + (gpt2 ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"),
             static_cast<float>(c.norm_eps));
  if (gpt2) return;
  set("attention.key_length", c.head_dim);
  set("attention.value_length", c.head_dim);
  set("rope.dimension_count", c.head_dim);
  writer.Set(dot + "rope.freq_base", static_cast<float>(c.rope_theta));
  const HfRopeScaling& scaling = c.rope_scaling;
  if (scaling.type == "linear" || scaling.type == "yarn") {
    writer.Set(dot + "rope.scaling.type", scaling.type);
    writer.Set(dot + "rope.scaling.factor", static_cast<float>(scaling.factor));
    if (scaling.type == "yarn") set("rope.scaling.original_context_length", scaling.original_context);
    const bool usual = scaling.beta_fast == 32 && scaling.beta_slow == 1 && !scaling.attention_factor;
    if (scaling.type == "yarn" && !usual) Inexpressible(c.path, "rope_scaling");
  } else if (scaling.type == "llama3") {
    const auto divisors = std::make_shared<std::vector<float>>(
        Llama3RopeDivisors(c.rope_theta, c.head_dim, scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor,
                           scaling.original_context));
    writer.AddTensor("rope_freqs.weight", DType::kF32, {c.head_dim / 2}, [divisors](int64_t, int64_t, uint8_t* dst) {
      std::memcpy(dst, divisors->data(), divisors->size() * sizeof(float));
    });
  }
  if (gemma) {
    if (c.query_scale != static_cast<double>(c.head_dim) && c.layers != 62)
      Inexpressible(c.path, "query_pre_attn_scalar");
    writer.Set(dot + "rope.freq_base_swa", static_cast<float>(c.rope_local_theta));
  }
  if (c.sliding_window == 0) return;
  set("attention.sliding_window", c.sliding_window);
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    const bool slides = !gemma || (layer + 1) % kGemmaPattern != 0;
    if (c.layer_slides[static_cast<size_t>(layer)] != slides) Inexpressible(c.path, "layer_types");
  }
}

// The llama3 scaling whose divisors these are; Llama's factors are 1 and 4, the original context is found by trial.
ordered_json Llama3Scaling(const GgufFile& file, const Tensor& divisors, double theta, int64_t head_dim) {
  const float* stored = divisors.f32();
  const double factor = *std::max_element(stored, stored + divisors.size());
  for (int64_t original = 32; original <= int64_t{1} << 24; original *= 2) {
    const std::vector<float> tried = Llama3RopeDivisors(theta, head_dim, factor, 1, 4, original);
    const bool same = static_cast<int64_t>(tried.size()) == divisors.size() &&
                      std::equal(tried.begin(), tried.end(), stored,
                                 [](float a, float b) { return std::fabs(a - b) <= 1e-4f * std::fabs(b); });
    if (same) {
      return {{"rope_type", "llama3"},
              {"factor", factor},
              {"low_freq_factor", 1.0},
              {"high_freq_factor", 4.0},
              {"original_max_position_embeddings", original}};
    }
  }
  Fail(ErrorCode::kData, file.path(), ": tensor rope_freqs.weight holds no llama3 scaling that config.json can state");
}

// A float's shortest decimal form, so that 1e-5f is written as 1e-05.
double Decimal(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.7g", value);
  return std::strtod(text, nullptr);
}

ordered_json ConfigJson(const GgufFile& file, const std::string& family, const std::string& dtype) {
  const std::string dot = file.Str("general.architecture") + ".";
  const auto get = [&](const char* key, std::optional<uint64_t> fallback = {}) {
    return file.U64(dot + key, fallback);
  };
  const auto number = [&](const char* key, std::optional<double> fallback = {}) {
    return Decimal(file.F64(dot + key, fallback));
  };
  const bool gpt2 = family == "gpt2", gemma = family == "gemma3_text";
  const Tensor* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr) Fail(ErrorCode::kData, file.path(), ": tensor token_embd.weight is missing");
  const bool tied = file.FindTensor("output.weight") == nullptr;
  const uint64_t heads = get("attention.head_count"), hidden = get("embedding_length"), blocks = get("block_count");
  const uint64_t modules = get("nextn_predict_layers", 0);
  if (modules >= blocks) Fail(ErrorCode::kData, file.path(), ": ", dot, "block_count is ", blocks, ", nextn_predict_layers ", modules);
  const uint64_t layers = blocks - modules;
  if (heads == 0) Fail(ErrorCode::kData, file.path(), ": ", dot, "attention.head_count is 0");
  ordered_json c = {
      {"model_type", family}, {"torch_dtype", dtype}, {"tie_word_embeddings", tied}, {"vocab_size", embedding->rows()}};
  for (const char* id : {"bos", "eos", "padding"}) {
    const std::string key = "tokenizer.ggml." + std::string(id) + "_token_id";
    const std::string field = std::string(id == std::string_view("padding") ? "pad" : id) + "_token_id";
    if (file.Find(key) != nullptr) c[field] = file.U64(key);
  }
  if (gpt2) {
    c.update({{"architectures", {"GPT2LMHeadModel"}},
              {"n_embd", hidden},
              {"n_layer", layers},
              {"n_head", heads},
              {"n_positions", get("context_length")},
              {"n_inner", get("feed_forward_length")},
              {"activation_function", "gelu_new"},
              {"layer_norm_epsilon", number("attention.layer_norm_epsilon")}});
    return c;
  }
  const char* architecture = family == "llama"     ? "LlamaForCausalLM"
                             : family == "mistral" ? "MistralForCausalLM"
                             : family == "qwen2"   ? "Qwen2ForCausalLM"
                             : family == "qwen3"   ? "Qwen3ForCausalLM"
                                                   : "Gemma3ForCausalLM";
  const uint64_t head_dim = get("attention.key_length", hidden / heads);
  const double theta = number("rope.freq_base", 10000.0);
  c.update({{"architectures", {architecture}},
            {"hidden_size", hidden},
            {"num_hidden_layers", layers},
            {"num_attention_heads", heads},
            {"num_key_value_heads", get("attention.head_count_kv", heads)},
            {"head_dim", head_dim},
            {"intermediate_size", get("feed_forward_length")},
            {"max_position_embeddings", get("context_length")},
            {"rms_norm_eps", number("attention.layer_norm_rms_epsilon")},
            {gemma ? "hidden_activation" : "hidden_act", gemma ? "gelu_pytorch_tanh" : "silu"},
            {"rope_theta", theta}});
  if (modules > 0) c["num_nextn_predict_layers"] = modules;
  if (family != "qwen2") c["attention_bias"] = file.FindTensor("blk.0.attn_q.bias") != nullptr;
  if (const Tensor* divisors = file.FindTensor("rope_freqs.weight")) {
    c["rope_scaling"] = Llama3Scaling(file, *divisors, theta, static_cast<int64_t>(head_dim));
  } else if (const std::string type = file.Str(dot + "rope.scaling.type", "none"); type != "none") {
    c["rope_scaling"] = {{"rope_type", type}, {"factor", number("rope.scaling.factor")}};
    if (type == "yarn")
      c["rope_scaling"]["original_max_position_embeddings"] = get("rope.scaling.original_context_length");
  }
  const uint64_t window = get("attention.sliding_window", 0);
  if (window > 0) c["sliding_window"] = window;
  if (gemma) {
    c["rope_local_base_freq"] = number("rope.freq_base_swa", 10000.0);
    c["query_pre_attn_scalar"] = layers == 62 ? hidden / heads : head_dim;
    c["sliding_window_pattern"] = kGemmaPattern;
  } else if (window > 0 && family != "mistral") {
    c["use_sliding_window"] = true;
    c["max_window_layers"] = 0;
  }
  return c;
}

std::string FamilyOf(const GgufFile& file) {
  const std::string arch = file.Str("general.architecture");
  if (arch == "llama") return file.U64("llama.attention.sliding_window", 0) > 0 ? "mistral" : "llama";
  if (arch == "gemma3") return "gemma3_text";
  if (arch == "qwen2" || arch == "qwen3" || arch == "gpt2") return arch;
  Fail(ErrorCode::kData, file.path(), ": general.architecture ", arch,
       " cannot be converted (llama, qwen2, qwen3, gemma3 "
       "and gpt2 can)");
}

}  // namespace

void ConvertToGguf(const std::string& directory, const std::string& out, const ConvertProgress& progress) {
  const HfConfig config = ReadHfConfig(directory);
  const ShardedSafetensors source(directory);
  GgufWriter writer;
  SetConfig(writer, config);
  writer.Set("general.name", fs::path(directory + "/").parent_path().filename().string());
  const std::string tokenizer = directory + "/tokenizer.json";
  if (fs::exists(tokenizer)) {
    WithTokenizerJson(tokenizer, [&](const TokenizerSpec& spec) { SetTokenizer(writer, spec, config.vocab); });
  }
  std::set<std::string> written;
  uint32_t file_type = 0, modules = 0;
  const std::vector<NamedTensor> tensors = source.tensors();
  for (const NamedTensor& tensor : tensors) {
    const TensorRename rename = RenameTensor(config.family, ConvertDirection::kToGguf, MtpTensorName(tensor.name, config.layers));
    if (rename.name.empty() || (config.tied_head && rename.name == "output.weight")) continue;
    if (!written.insert(rename.name).second)
      Fail(ErrorCode::kData, directory, ": tensor ", rename.name, " is there twice");
    if (rename.name.ends_with(".nextn.eh_proj.weight")) ++modules;
    const Tensor view = *source.FindTensor(tensor.name);
    const bool matrix = view.rank == 2 && rename.name != "position_embd.weight";
    if (view.rank > 2 || view.size() == 0) Fail(ErrorCode::kData, directory, ": tensor ", tensor.name, " is no matrix");
    Transform how;
    how.target = matrix ? view.dtype : DType::kF32;
    how.transposed = rename.transposed;
    how.added = rename.gain_offset ? 1.0f : 0.0f;
    how.heads = rename.permuted == 'q' ? config.heads : rename.permuted == 'k' ? config.kv_heads : 0;
    how.to_pairs = true;
    CheckHeads(directory, tensor, how);
    if (matrix && view.dtype == DType::kF16) file_type = 1;
    if (matrix && view.dtype == DType::kBF16) file_type = 32;
    std::vector<int64_t> shape = tensor.shape;
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
  writer.Set("general.file_type", file_type);
  if (modules > 0) {
    const std::string arch = Architecture(config.family);
    writer.Set(arch + ".block_count", static_cast<uint32_t>(config.layers) + modules);
    writer.Set(arch + ".nextn_predict_layers", modules);
  }
  writer.Write(out, [&](uint64_t done, uint64_t total) {
    source.CheckIntact();
    if (progress) progress(done, total);
  });
}

void ConvertToHuggingFace(const std::string& gguf, const std::string& directory, DType dense,
                          const ConvertProgress& progress) {
  Check(dense == DType::kF32 || dense == DType::kF16 || dense == DType::kBF16, "dense is a float type");
  const GgufFile file(gguf);
  const std::string family = FamilyOf(file);
  const std::string dot = file.Str("general.architecture") + ".";
  const auto heads = static_cast<int64_t>(file.U64(dot + "attention.head_count"));
  const auto kv_heads = static_cast<int64_t>(file.U64(dot + "attention.head_count_kv", static_cast<uint64_t>(heads)));
  std::vector<TensorToWrite> tensors;
  DType widest = DType::kBF16;
  for (const NamedTensor& tensor : file.tensors()) {
    const TensorRename rename = RenameTensor(family, ConvertDirection::kToHuggingFace, tensor.name);
    if (rename.name.empty()) continue;
    const Tensor view = *file.FindTensor(tensor.name);
    Transform how;
    how.target = IsQuantized(view.dtype) ? dense : view.dtype;
    how.transposed = rename.transposed;
    how.added = rename.gain_offset ? -1.0f : 0.0f;
    how.heads = rename.permuted == 'q' ? heads : rename.permuted == 'k' ? kv_heads : 0;
    CheckHeads(gguf, tensor, how);
    if (view.rank == 2) widest = how.target;
    TensorToWrite item{rename.name, view, [how, view, &file] {
                         std::vector<uint8_t> bytes = Apply(how, view);
                         file.Evict(view);
                         return bytes;
                       }};
    item.view.data = nullptr;
    item.view.dtype = how.target;
    if (how.transposed) std::reverse(item.view.shape.begin(), item.view.shape.begin() + item.view.rank);
    tensors.push_back(std::move(item));
  }
  const char* dtype = widest == DType::kF32 ? "float32" : widest == DType::kF16 ? "float16" : "bfloat16";
  const ordered_json config = ConfigJson(file, family, dtype);
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) Fail(ErrorCode::kResource, directory, ": cannot create: ", error.message());
  if (file.Find("tokenizer.ggml.model") != nullptr) WriteTokenizerJson(TokenizerSpecFromGguf(file), directory);
  WriteSafetensors(directory + "/model.safetensors", std::move(tensors), {{"format", "pt"}},
                   [&](uint64_t done, uint64_t total) {
                     file.CheckIntact();
                     if (progress) progress(done, total);
                   });
  AtomicFile out(directory + "/config.json");  // last: a directory without it is no model
  out.Write(config.dump(2) + "\n");
  out.Commit();
}

}  // namespace cambium
