// The configuration on its way between config.json, generation_config.json and GGUF's metadata.
#include "io/convert_config.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>

#include "cambium/error.h"
#include "io/convert.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "io/hf_config.h"
#include "io/json.h"
#include "io/tokenizer.h"
#include "tensor/quantize.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int64_t kGemmaPattern = 6;  // every sixth layer sees everything, where GGUF's gemma3 does not say
// Ours: generation_config.json as it was.
constexpr const char* kGenerationKey = "cambium.generation_config";

// GGUF's defaults for sampling, as gguf-py names them, and generation_config.json's.
constexpr std::pair<const char*, const char*> kSampling[] = {{"general.sampling.temp", "temperature"},
                                                             {"general.sampling.top_p", "top_p"},
                                                             {"general.sampling.min_p", "min_p"},
                                                             {"general.sampling.top_k", "top_k"},
                                                             {"general.sampling.penalty_repeat", "repetition_penalty"}};

// The llama3 scaling whose divisors these are; Llama's factors are 1 and 4, the original context is found by trial.
ordered_json Llama3Scaling(const GgufFile& file, const Tensor& divisors, double theta, int64_t head_dim) {
  std::vector<float> stored(static_cast<size_t>(divisors.size()));
  Dequantize(divisors.dtype, divisors.data, stored.data(), divisors.size());
  const double factor = *std::max_element(stored.begin(), stored.end());
  for (int64_t original = 32; original <= int64_t{1} << 24; original *= 2) {
    const std::vector<float> tried = Llama3RopeDivisors(theta, head_dim, factor, 1, 4, original);
    const bool same = static_cast<int64_t>(tried.size()) == divisors.size() &&
                      std::equal(tried.begin(), tried.end(), stored.begin(),
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

// Token ids as config.json states them.
void SetTokenIds(const GgufFile& file, ordered_json& c) {
  const int32_t bos = GgufTokenId(file, "bos", -1), eos = GgufTokenId(file, "eos", -1);
  if (bos >= 0) c["bos_token_id"] = bos;
  std::vector<int32_t> ends = GgufEndTokens(file);
  if (eos >= 0) ends.insert(ends.begin(), eos);
  std::vector<int32_t> once;
  for (const int32_t id : ends) {
    if (std::ranges::find(once, id) == once.end()) once.push_back(id);
  }
  if (once.size() == 1) c["eos_token_id"] = once[0];
  if (once.size() > 1) c["eos_token_id"] = once;
  if (const int32_t pad = GgufTokenId(file, "padding", -1); pad >= 0) c["pad_token_id"] = pad;
}

}  // namespace

std::vector<uint8_t> GgufSlidingLayers(const GgufFile& file, const std::string& arch, int64_t layers) {
  const std::string key = arch + ".attention.sliding_window_pattern";
  std::vector<int64_t> pattern = file.Ints(key);
  if (pattern.empty()) pattern = {kGemmaPattern};
  const bool period = pattern.size() == 1;
  if ((period && pattern[0] < 0) || (!period && static_cast<int64_t>(pattern.size()) != layers)) {
    Fail(ErrorCode::kData, file.path(), ": ", key, " has ", pattern.size(), " values, the first ", pattern[0],
         "; expected a period, or one for each of ", layers, " layers");
  }
  std::vector<uint8_t> slides;
  for (int64_t layer = 0; layer < layers; ++layer) {
    const int64_t every = pattern[period ? 0 : static_cast<size_t>(layer)];
    slides.push_back(period ? every == 0 || (layer + 1) % every != 0 : every != 0);
  }
  return slides;
}

std::string GgufArchitecture(const std::string& family) {
  return family == "gemma3_text" ? "gemma3" : family == "mistral" ? "llama" : family;
}

// HfConfig as GGUF metadata; with llama3 scaling, also the tensor of divisors.
void SetConfig(GgufWriter& writer, const HfConfig& c, bool only_weights) {
  const std::string arch = GgufArchitecture(c.family), dot = arch + ".";
  const bool gpt2 = c.family == "gpt2", gemma = c.family == "gemma3_text";
  const auto inexpressible = [&](std::string_view field) {
    if (only_weights) return;
    Fail(ErrorCode::kData, c.path, ": ", field, " has a value that GGUF cannot express");
  };
  const auto set = [&](const char* key, int64_t value) {
    if (value < 0 || value > UINT32_MAX) {
      Fail(ErrorCode::kData, c.path, ": ", value, " for ", dot, key, " is more than the 32 bits that GGUF has for it");
    }
    writer.Set(dot + key, static_cast<uint32_t>(value));
  };
  if (c.activation != (gpt2 ? "gelu_new" : gemma ? "gelu_pytorch_tanh" : "silu")) inexpressible("activation");
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
  const RopeScaling& scaling = c.rope_scaling;
  if (!only_weights) SetGgufRopeScaling(writer, arch, scaling, c.path);
  if (scaling.type == "llama3" && !only_weights) {
    const auto divisors = std::make_shared<std::vector<float>>(
        Llama3RopeDivisors(c.rope_theta, c.head_dim, scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor,
                           scaling.original_context));
    writer.AddTensor("rope_freqs.weight", DType::kF32, {c.head_dim / 2}, [divisors](int64_t, int64_t, uint8_t* dst) {
      std::memcpy(dst, divisors->data(), divisors->size() * sizeof(float));
    });
  }
  if (gemma) {
    if (c.query_scale != static_cast<double>(c.head_dim) && c.layers != 62) {
      inexpressible("query_pre_attn_scalar");
    }
    writer.Set(dot + "rope.freq_base_swa", static_cast<float>(c.rope_local_theta));
  }
  if (c.rope_local_scaling != RopeScaling() || (c.local_rope && !gemma)) {
    inexpressible("rope_parameters of sliding_attention");
  }
  if (c.sliding_window == 0) return;
  set("attention.sliding_window", c.sliding_window);
  if (!gemma && std::ranges::count(c.layer_slides, 0) > 0) inexpressible("layer_types");
  if (!gemma) return;
  // The first layer that sees everything ends the period, if there is one.
  const int64_t period = std::ranges::find(c.layer_slides, 0) - c.layer_slides.begin() + 1;
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    const bool slides = (layer + 1) % period != 0;
    if (c.layer_slides[static_cast<size_t>(layer)] != slides) inexpressible("layer_types");
  }
  if (period != kGemmaPattern && (period <= c.layers || c.layers >= kGemmaPattern)) {
    set("attention.sliding_window_pattern", period);
  }
}

ordered_json HfConfigJson(const GgufFile& file, const std::string& family, const std::string& dtype) {
  const std::string arch = file.Str("general.architecture"), dot = arch + ".";
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
  if (modules >= blocks)
    Fail(ErrorCode::kData, file.path(), ": ", dot, "block_count is ", blocks, ", nextn_predict_layers ", modules);
  const uint64_t layers = blocks - modules;
  if (heads == 0) Fail(ErrorCode::kData, file.path(), ": ", dot, "attention.head_count is 0");
  ordered_json c = {
      {"model_type", family}, {"torch_dtype", dtype}, {"tie_word_embeddings", tied}, {"vocab_size", embedding->rows()}};
  SetTokenIds(file, c);
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
  const RopeScaling scaling = ReadGgufRopeScaling(file, arch, static_cast<int64_t>(get("context_length")));
  ordered_json rope = RopeScalingJson(scaling, file.path());
  if (const Tensor* divisors = file.FindTensor("rope_freqs.weight")) {
    if (!rope.is_null()) {
      Fail(ErrorCode::kData, file.path(), ": ", dot,
           "rope.scaling and the tensor rope_freqs.weight have no field together");
    }
    rope = Llama3Scaling(file, *divisors, theta, static_cast<int64_t>(head_dim));
  }
  if (!rope.is_null()) c["rope_scaling"] = rope;
  const double attention = file.F64(dot + "attention.scale", 0.0), usual = 1 / std::sqrt(static_cast<double>(head_dim));
  if (!gemma && attention != 0 && std::fabs(attention - usual) > 1e-6 * usual) {
    Fail(ErrorCode::kData, file.path(), ": ", dot, "attention.scale ", attention, " has no field in config.json");
  }
  const uint64_t window = get("attention.sliding_window", 0);
  if (window > 0) c["sliding_window"] = window;
  if (gemma) {
    c["rope_local_base_freq"] = number("rope.freq_base_swa", 10000.0);
    c["query_pre_attn_scalar"] = layers == 62 ? hidden / heads : head_dim;
    if (attention != 0) c["query_pre_attn_scalar"] = Decimal(1 / (attention * attention));
    ordered_json types = ordered_json::array();
    for (const uint8_t slides : GgufSlidingLayers(file, arch, static_cast<int64_t>(layers))) {
      types.push_back(slides ? "sliding_attention" : "full_attention");
    }
    c["layer_types"] = types;
  } else if (window > 0 && family != "mistral") {
    c["use_sliding_window"] = true;
    c["max_window_layers"] = 0;
  }
  return c;
}

std::string HfFamilyOf(const GgufFile& file) {
  const std::string arch = file.Str("general.architecture");
  if (arch == "llama") return file.U64("llama.attention.sliding_window", 0) > 0 ? "mistral" : "llama";
  if (arch == "gemma3") return "gemma3_text";
  if (arch == "qwen2" || arch == "qwen3" || arch == "gpt2") return arch;
  Fail(ErrorCode::kData, file.path(), ": general.architecture ", arch,
       " cannot be converted (llama, qwen2, qwen3, gemma3 "
       "and gpt2 can)");
}

void SetGenerationConfig(GgufWriter& writer, const std::string& directory) {
  const std::string path = directory + "/generation_config.json";
  if (!fs::exists(path)) return;
  const ordered_json config = ParseOrderedJson(ReadTextFile(path, size_t{16} << 20), path);
  if (!config.is_object()) Fail(ErrorCode::kData, path, ": is not an object");
  for (const auto& [key, field] : kSampling) {
    const auto found = config.find(field);
    if (found == config.end() || !found->is_number()) continue;
    if (field != std::string_view("top_k")) {
      writer.Set(key, found->get<float>());
      continue;
    }
    const auto whole =
        static_cast<int32_t>(WholeNumber(nlohmann::json(*found), path + ": top_k", INT32_MIN, INT32_MAX));
    const GgufValue top_k{GgufType::kI32, GgufType::kI32, 1, {reinterpret_cast<const uint8_t*>(&whole), sizeof whole}};
    writer.Set(key, top_k);
  }
  writer.Set(kGenerationKey, config.dump());
}

ordered_json GenerationConfigJson(const GgufFile& file) {
  if (const std::string kept = file.Str(kGenerationKey, ""); !kept.empty()) {
    return ParseOrderedJson(kept, file.path() + ": " + kGenerationKey);
  }
  ordered_json c = ordered_json::object();
  SetTokenIds(file, c);
  for (const auto& [key, field] : kSampling) {
    const GgufValue* const value = file.Find(key);
    if (value == nullptr) continue;
    c["do_sample"] = true;
    if (field == std::string_view("top_k")) c[field] = file.Ints(key).at(0);
    if (field != std::string_view("top_k")) c[field] = Decimal(file.F64(key));
  }
  return c;
}

}  // namespace cambium
