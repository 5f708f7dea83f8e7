#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/options.h"
#include "grafts/grafts.h"
#include "model/heads.h"
#include "train/dataset.h"
#include "train/trainer.h"

namespace cambium::cli {

// What `train` and `plan` share.
struct TrainFlags {
  OutputFlags output;
  std::string model, data, valid, directory, config, graft = "lora", init_from, init_text, resume = "never";
  std::string precision = "bf16", schedule = "cosine", format = "auto";
  std::vector<std::string> rank_pattern, alpha_pattern;
  double valid_split = 0;
  DatasetOptions dataset;
  GraftOptions graft_options;
  TrainOptions train;
  std::string labels = "model", with_graft, with_heads, refresh_heads, bundle;
  std::string distill;            // prompts that the model answers, for draft heads to learn from
  int64_t distill_tokens = 256, draft_vocab = 0;
  float heads_lr = 1e-3f, distill_temp = 0, mtp_weight = 0, joint_weight = 0.2f;
  std::optional<float> feature_weight;  // 10 for mtp, whose module has room for it; else 0
  bool joint = false;
  bool beside() const { return joint || mtp_weight > 0; }  // heads are trained with the graft, not after it
  int64_t sequence_length = 512;
  int threads = 0;
  bool no_shuffle = false, pack = false, raw = false, yes = false, print_config = false, numerics = false;
};
void AddTrainOptions(CLI::App& verb, TrainFlags& flags);
// Reads --config into every option that the command line left out; kUsage naming an unknown key. True if --print-config
// printed, and nothing else is to be done.
bool ApplyConfig(CLI::App& verb, TrainFlags& flags);

// Sets and checks what beside() takes: DeepSeek-V3's auxiliary loss (the mean over depths), or Medusa-2's. kUsage
// naming the flag that does not fit.
void PrepareBeside(TrainFlags& flags);

// A loaded model with its data, graft and trainer; its plan is printed on stderr.
struct TrainSession {
  explicit TrainSession(TrainFlags& flags);

  std::string model_path;
  ThreadPool pool;
  Tokenizer tokenizer;
  std::unique_ptr<Transformer> model;
  Dataset data, valid;
  std::optional<RunLock> lock;
  std::vector<std::unique_ptr<Graft>> trunk;  // the fine-tune that draft heads are for
  std::unique_ptr<Graft> graft;
  std::unique_ptr<Graft> with_heads;  // trained beside it
  Heads& heads() const { return *(with_heads != nullptr ? with_heads : graft)->heads(); }
  std::vector<Graft*> train_grafts;  // everything that acts when the trained graft is tried out
  std::unique_ptr<Trainer> trainer;
};
// Prints the preflight and returns the predicted peak in bytes; kUsage if the stop token is not trained, unless --yes.
int64_t PrintPlan(TrainSession& session, const TrainFlags& flags);

}  // namespace cambium::cli
