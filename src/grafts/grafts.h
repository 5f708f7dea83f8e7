#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/transformer.h"

namespace cambium {

// How a new graft is made; a kind ignores what it does not know.
struct GraftOptions {
  int64_t rank = 8;
  double alpha = 16;                 // scale of a low-rank term: alpha / rank
  bool rslora = false;               // alpha / sqrt(rank) instead
  double dropout = 0;                // on the input of a low-rank term, while training
  bool dora = false;                 // a trained length for each row of the adapted matrix
  bool pissa = false;                // begin from the matrix's leading singular vectors, not from noise and zero
  std::vector<std::string> targets;  // names of linears ("q_proj"); empty = all
  std::map<std::string, double> rank_pattern, alpha_pattern;  // other values for linears of these names

  int64_t length = 10;               // virtual tokens of a prefix or prompt
  std::string prefix_init = "text";  // text, random or zero
  std::vector<int32_t> init_ids;     // the text, repeated or cut to `length`
  int64_t mlp_width = 0;             // of a prefix's reparametrisation; 0 = none

  std::string variant = "pfeiffer";      // of an adapter: houlsby, pfeiffer, parallel or scaled-parallel
  double reduction = 16;                 // its bottleneck has hidden / reduction values
  std::string activation;                // "relu", "swish", "gelu", ...; empty = the variant's
  std::string adapter_init = "zero-up";  // zero-up (does nothing at first), bert or houlsby

  int64_t heads = 4;                 // draft heads: how many tokens ahead they guess
  bool own_heads = false;            // Medusa version 1: an output head of its own for each
  bool parallel = false;             // multi-token prediction: a block for each depth, as Meta's; else one in a row, DeepSeek's
  int64_t layer = 0;                 // exit: how many blocks run before it
  std::vector<int32_t> draft_tokens; // what draft heads choose from, ascending; empty = the whole vocabulary
  std::vector<int32_t> end_tokens;   // which a draft vocabulary must hold
  uint64_t seed = 0;
  DType working = DType::kF32;  // full fine-tuning: what the weights are rounded to where products read them
  std::string base, revision;   // what the adapter's config names as its base model
  std::string task_type = "CAUSAL_LM";  // PEFT's; kept as a file has it
};

// The list of grafts: one line each in grafts.cc.
struct GraftEntry {
  const char* kind;
  const char* help;
  // A new one, ready to train; null where a kind cannot be trained anew.
  std::unique_ptr<Graft> (*make)(const GraftOptions& options, BaseModel& model);
  // Whether the file or directory at `path` (it exists) holds this kind; throws only where it cannot be read at all. Null,
  // as `load` is, where a kind is saved as a model of its own.
  bool (*recognises)(const std::string& path);
  // Reads it, its effect multiplied by `scale`; kUsage where the kind has no scale other than 1.
  std::unique_ptr<Graft> (*load)(const std::string& path, const BaseModel& model, float scale);
  bool heads = false;  // guesses further tokens and leaves the model's own as they are
};
const std::vector<GraftEntry>& GraftList();
std::string GraftKinds();  // "lora, ..." as help and errors name what can be trained

// A graft of a kind of the list, ready to train. kUsage for an unknown kind (naming the known ones), target or bad rank.
// The model must outlive it.
std::unique_ptr<Graft> MakeGraft(const std::string& kind, const GraftOptions& options, BaseModel& model);

// Reads whatever graft of the list is at `path`, in the field's format. kData naming file and field; both shapes if it is
// for another base.
std::unique_ptr<Graft> LoadGraft(const std::string& path, const BaseModel& model, float scale = 1);

// kUsage naming both where two grafts of a stack would act at one place: prefixes, prompts, adapters at one
// sub-layer, one graft given twice. LoRAs at one linear add up, IA3's factors multiply. `names` are what --graft was given.
void CheckStack(const std::vector<std::string>& names, const std::vector<Graft*>& grafts, const ModelConfig& config);

// Everything at `path`: a bundle is one directory with a fine-tune and the draft heads that were trained for it. The scale
// is the fine-tune's. kData naming both where the parts name different bases.
std::vector<std::unique_ptr<Graft>> LoadGrafts(const std::string& path, const BaseModel& model, float scale = 1);
// The part of a bundle that is draft heads, or is not; null if there is none.
std::unique_ptr<Graft> LoadPart(const std::string& path, const BaseModel& model, bool heads);
bool IsHeads(const std::string& kind);

// "PATH" or "PATH=SCALE" as --graft takes it; kUsage where the scale is no finite number.
struct GraftSpec {
  std::string path;
  float scale = 1;
};
GraftSpec ParseGraftSpec(const std::string& text);

}  // namespace cambium
