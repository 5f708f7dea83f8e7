#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

namespace cambium {

class GgufFile;
class GgufKeys;
class HfFields;
struct HfConfig;

enum class Dialect : uint8_t { kHuggingFace, kGguf };

// What a tensor is in the model, whatever a file calls it. kQ to kCrossO are in the order of the model's sites.
enum class Role : uint8_t {
  kEmbedding,
  kPositions,
  kFinalNorm,
  kHead,
  kAttentionNorm,
  kAttentionPostNorm,
  kFfnNorm,
  kFfnPostNorm,
  kQNorm,
  kKNorm,
  kCrossNorm,
  kEmbeddingNorm,
  kLogitBias,
  kQ,
  kK,
  kV,
  kO,
  kGate,
  kUp,
  kDown,
  kCrossQ,
  kCrossK,
  kCrossV,
  kCrossO,
  kQkv,        // q, k and v in one
  kGateUp,     // gate and up in one
  kNextToken,  // a tensor of a module that predicts further tokens
  // A mixture of experts: "{}" of a Hugging Face name stands for the layer, then the expert; GGUF stacks the experts.
  kRouter,
  kExpertGate,
  kExpertUp,
  kExpertDown,
  kSharedGate,  // of the expert that all rows share
  kSharedUp,
  kSharedDown,
  kSharedRouter,  // what scales its result; a vector in GGUF
};

// How a dialect stores a matrix, where the rows are not as the model has them.
enum class Layout : uint8_t {
  kPlain,
  kRopePairs,   // GGUF: the two halves of a head that RoPE pairs are interleaved (llama.cpp's permute)
  kTransposed,  // Hugging Face: [in, out] (GPT-2's Conv1D)
  kHeadThirds,  // Hugging Face: each head's q, k and v together (GPT-NeoX)
};

// One line of a family's table: a tensor's stem (its name without ".weight" or ".bias") in each dialect. "{}" stands
// for the layer, counted within its stack, and "{stack}" for "encoder" or "decoder". A role may have several
// lines; the first is the one that is written.
struct TensorRow {
  Role role;
  std::string_view hf, gguf;
  Layout layout = Layout::kPlain;
};

// What a block computes, whatever its sizes.
struct BlockTraits {
  enum class Norm : uint8_t { kRms, kLayer };

  Norm norm = Norm::kRms;
  bool gated = true;               // act(gate) * up; else act(up)
  bool pre_norms = true;           // a norm before each branch (not OLMo 2)
  bool post_norms = false;         // a norm on each branch before its residual add (Gemma)
  bool qk_norm = false;            // RmsNorm over head_dim on q and k (Qwen3, Gemma 3)
  bool wide_qk_norm = false;       // that over all heads at once (OLMo 2)
  bool residual_norm = false;      // each sub-layer is norm(x + branch(x)), with no norm before it (BART)
  bool embedding_norm = false;     // a norm on the embedded input of a stack (BART)
  bool final_norm = true;          // a norm behind the last block of a stack
  bool encoder = false;            // an encoder stands before the decoder, which attends to its result
  int64_t position_offset = 0;     // rows of the table before position 0's (BART)
  bool learned_positions = false;  // GPT-2
  bool rope = true;
};

// The keys of config.json for what every family has; null where a family has no such key.
struct ConfigKeys {
  const char* vocab = "vocab_size";
  const char* hidden = "hidden_size";
  const char* layers = "num_hidden_layers";
  const char* heads = "num_attention_heads";
  const char* kv_heads = "num_key_value_heads";
  const char* head_dim = "head_dim";
  const char* ffn = "intermediate_size";
  const char* context = "max_position_embeddings";
  const char* norm_eps = "rms_norm_eps";
  const char* activation = "hidden_act";
  const char* attention_bias = "attention_bias";
  const char* rotary = nullptr;  // the share of a head that RoPE turns
};

// What an absent key of config.json means (transformers, configuration_*.py); 0: it may not be absent, or the comment.
struct ConfigDefaults {
  int64_t vocab = 0, heads = 0;
  int64_t kv_heads = 0;   // as many as heads
  int64_t head_dim = 0;   // hidden / heads
  int64_t ffn_times = 0;  // times hidden
  int64_t context = 2048;
  double norm_eps = 1e-6;
  double rope_theta = 1e4;
  double rotary = 1;
  const char* activation = "silu";  // GGUF, which has no key for it, means this one
  bool tied_head = false;
  bool attention_bias = false;
};

// Which layers see a window only.
enum class Sliding : uint8_t {
  kNone,   // the family has no windows
  kAll,    // all, if sliding_window is set (Mistral)
  kLast,   // from max_window_layers on, if use_sliding_window is true (Qwen)
  kEvery,  // all but every n-th (Gemma), or as layer_types says
};

// All that tells a family from others outside of a pass: one file, and one line in families.cc (docs/add-a-family.md).
struct Family {
  const char* hf_type;                  // model_type of config.json
  const char* hf_class;                 // of the module with a language model's head
  const char* gguf;                     // general.architecture
  const char* hf_wrapper = nullptr;     // model_type of a multimodal model whose text_config is of this family
  std::string_view hf_base = "model.";  // the base model's place in the tree; its own files do not have it
  std::span<const TensorRow> tensors;
  float gain_offset = 0;  // what Hugging Face leaves out of a norm's gain (Gemma: 1)
  BlockTraits traits = {};
  ConfigKeys keys = {};
  ConfigDefaults defaults = {};
  bool states_attention_scale = false;  // config.json has a field for it
  Sliding sliding = Sliding::kNone;
  int64_t sliding_window = 0;  // kEvery: what an absent key means
  int64_t sliding_every = 0;   // kEvery: n

  // Of several families that GGUF calls alike: whether the file is of this one. Null: it is, if of no other.
  bool (*claims)(const GgufFile& file) = nullptr;
  // Honoured beyond what every family's files may say (io/known_keys.cc); GGUF's stand behind "ARCH.".
  std::span<const std::string_view> hf_keys = {}, gguf_keys = {};
  // More than the common fields, if not null: each reads or writes its dialect, and they stand one above the other.
  void (*read_hf)(const HfFields& fields, HfConfig& config) = nullptr;
  void (*write_hf)(const HfConfig& config, nlohmann::ordered_json& json) = nullptr;
  void (*read_gguf)(const GgufFile& file, HfConfig& config) = nullptr;
  void (*write_gguf)(const HfConfig& config, GgufKeys& keys) = nullptr;
};

// families.cc: every family that there is.
std::span<const Family* const> Families();
// By model_type, by general.architecture; null: none.
const Family* FindFamily(std::string_view hf_type);
const Family* FindGgufFamily(std::string_view architecture);
// The names of all in one dialect, as a message lists them: "a, b and c".
std::string FamilyNames(Dialect dialect);

// A family's names for its tensors in one dialect.
class TensorNames {
 public:
  // encoder_layers: the layers that are the encoder's, which come first.
  TensorNames(const Family& family, Dialect dialect, int64_t encoder_layers = 0)
      : family_(&family), dialect_(dialect), encoder_layers_(encoder_layers) {}

  const Family& family() const { return *family_; }
  bool Has(Role role) const { return Find(role) != nullptr; }
  // "model.layers.3.mlp.up_proj"; the family has the role.
  std::string Stem(Role role, int64_t layer = 0, int64_t expert = 0) const;
  std::string Weight(Role role, int64_t layer = 0, int64_t expert = 0) const {
    return Stem(role, layer, expert) + ".weight";
  }
  std::string Bias(Role role, int64_t layer = 0) const { return Stem(role, layer) + ".bias"; }
  // What stands before a layer's number: "model.layers.".
  std::string Layers() const;
  // Whether a layer's experts are one tensor, one behind the other.
  bool StacksExperts() const { return dialect_ == Dialect::kGguf; }
  // How this dialect stores it.
  Layout LayoutOf(Role role) const;
  // What this dialect leaves out of a norm's gain.
  float gain_offset() const { return dialect_ == Dialect::kHuggingFace ? family_->gain_offset : 0; }

 private:
  const TensorRow* Find(Role role) const;
  const Family* family_;
  Dialect dialect_;
  int64_t encoder_layers_;
};

}  // namespace cambium
