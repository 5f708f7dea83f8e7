#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cambium/error.h"
#include "cambium/model.h"

namespace cambium {

// How a model is trained: the options of `cambium train` (docs/training.md), under their names with _ for -. A value:
// nothing that trains by it changes it.
struct TrainConfig {
  // The data.
  std::string data;              // file of examples: JSON lines, a JSON array, or a text
  std::string valid;             // file of examples to validate on
  double valid_split = 0;        // or the share of `data` to validate on, 0 to 1
  std::string format = "auto";   // or chat, completions, text, alpaca, sharegpt, ids, plain
  std::string output;            // directory for the adapter, checkpoints and metrics; empty: nothing is written
  int64_t seq_len = 512;         // tokens of an example; longer ones are cut
  bool train_on_prompt = false;  // on every token, not only on answers
  bool raw = false;              // completions and alpaca without the chat template
  std::vector<std::string> ignore_fields;
  bool skip_bad = false;  // skip and count bad lines

  // What is trained.
  std::string graft = "lora";  // or prefix, prompt, adapter, ia3, full, medusa, mtp, exit
  std::string init_from;       // an adapter to start from
  int64_t rank = 8;            // of a LoRA, whose scale is alpha / rank
  double alpha = 16;
  bool rslora = false, dora = false, pissa = false;
  std::vector<std::string> rank_pattern, alpha_pattern;  // by linear: "q_proj=16"
  double dropout = 0;
  std::vector<std::string> targets;  // linears, such as "q_proj"; empty: all
  int64_t length = 10;               // virtual tokens of a prefix or prompt
  std::string prefix_init = "text";  // how it begins: text, random or zero
  std::string init_text;             // the text; empty: the beginning of the data
  int64_t prefix_mlp = 0;            // width of an MLP that it is trained through; 0: directly
  std::string variant = "pfeiffer";  // of an adapter: or houlsby, parallel, scaled-parallel
  double reduction = 16;             // its bottleneck has hidden / reduction values
  std::string activation, adapter_init = "zero-up";

  // Draft heads (docs/heads.md).
  int64_t heads = 4;  // how many tokens ahead they guess
  bool own_heads = false, parallel = false;
  int64_t layer = 0;                    // exit: blocks before it; 0: half of them
  int64_t draft_vocab = 0;              // they choose among the most frequent tokens of the data; 0: all
  std::string labels = "model";         // they learn what the model says, or the "text"
  std::optional<float> feature_weight;  // 10 for mtp, else 0
  std::string distill;                  // prompts that the model answers; heads learn its answers
  int64_t distill_tokens = 256;
  float distill_temp = 0;
  float heads_lr = 1e-3f;
  double cache_gb = 2;     // of disk for the model's hidden states
  std::string with_graft;  // the fine-tune that they are for
  std::string with_heads;  // heads to train behind the adapter: medusa, mtp or exit
  float mtp_weight = 0;    // of MTP's loss beside the adapter's; 0: not trained beside it
  bool joint = false;      // heads first, then with the adapter (Medusa-2)
  float joint_weight = 0.2f;
  std::string refresh_heads;  // a bundle whose heads are trained again
  std::string bundle;         // where heads are saved; empty: in `output`. Stages() sets it

  // The run.
  int64_t batch_size = 4, accumulate = 1;
  bool pack = false;  // micro-batches of batch_size x seq_len tokens
  int64_t steps = 0;  // 0: what `epochs` take
  std::optional<double> epochs;  // 3, or more where the data is so little that 100 steps take more
  std::optional<float> lr;       // by what is trained and the model's width (docs/notes/training-defaults.md)
  std::string schedule = "cosine";  // or linear, constant
  int64_t warmup = 0;
  float weight_decay = 0, clip = 1;
  bool adam_8bit = false;
  std::string precision = "bf16";  // or fp32, fp16
  bool numerics_report = false;
  bool checkpoint_activations = false;
  uint64_t seed = 0;
  bool no_shuffle = false;
  int64_t eval_every = 0;        // steps; 0: each epoch
  int64_t patience = 0;          // validations without a better one; 0: never stops early
  int64_t save_every = 50;       // steps between checkpoints
  int keep = 2;                  // checkpoints
  std::string resume = "never";  // auto goes on from the newest whole checkpoint
  bool yes = false;              // train even if the stop token is not trained
  double dist_timeout = 0;       // seconds that ranks wait for one; 0: by the steps

  // A TOML file with the options' names as keys, such as the train.toml that a run of the program leaves (whose MODEL,
  // threads, json and quiet are the program's own and say nothing here). kUsage naming an unknown key or a bad value.
  static TrainConfig FromToml(const std::string& path);
  // A JSON object with these names, with _ or -; patterns may be objects.
  static TrainConfig FromJson(std::string_view json);
  std::string ToJson() const;

  // kUsage naming the option that is out of its range or does not fit another. Reads no file.
  void Check() const;
  // The runs that it stands for, in order: two where heads are trained behind an adapter or before it.
  std::vector<TrainConfig> Stages() const;
};

// What was read of a data set, and what was lost on the way.
struct DatasetReport {
  int64_t examples = 0, tokens = 0, trained_tokens = 0;
  int64_t truncated_examples = 0, truncated_tokens = 0;
  int64_t without_targets = 0;  // dropped: nothing to train on, or the answer begins beyond the longest text
  int64_t skipped = 0;          // bad lines, with skip_bad
  std::string first_skipped;    // why
  int64_t answers = 0;          // texts that ought to end with a stop token ...
  int64_t answers_stopped = 0;  // ... and are trained to
  bool stop_token_trained() const { return answers > 0 && answers_stopped == answers; }
};

// What a run will cost, found by running two micro-batches before step 1.
struct TrainPlan {
  int64_t parameters = 0;       // trained numbers
  int64_t steps = 0, rows = 0;  // rows of all steps
  int64_t max_rows = 0;         // of one micro-batch
  int64_t peak_bytes = 0;       // resident memory, predicted
  double tokens_per_s = 0, seconds = 0;  // of this process alone
  // Of a step that `ranks` processes share.
  int ranks = 1;
  int64_t rounds = 0;                      // micro-batches that each computes
  int64_t bytes_sent = 0;                  // by each, and as many received
  double step_seconds = 0;                 // of computing
};

// A run of an example's text that is trained on, or that is not.
struct PreviewPart {
  std::string text;
  bool trained;
};

// What one step, and the validation behind it, measured.
struct StepReport {
  int64_t step = 0;                  // from 1
  double loss = 0;                   // mean over the step's trained tokens, before the update
  std::optional<double> heads_loss;  // of draft heads beside the graft, of which `loss` has no part
  double grad_norm = 0;
  double lr = 0;
  int64_t tokens = 0;  // rows of the step
  double tokens_per_s = 0;
  double loss_scale = 1;
  bool skipped = false;  // fp16 overflow
  // Draft heads, by depth: shares of guesses that were right at first, and among the first five, over up to ten steps.
  std::vector<std::pair<double, double>> heads_right;
  std::optional<double> valid_loss;
  bool best = false;  // no validation before was better
};

struct TrainResult {
  enum class End : uint8_t { kDone, kEarlyStop, kInterrupted };
  End end = End::kDone;
  int64_t steps = 0;
  double loss = 0;                  // of the last step
  std::optional<double> best_loss;  // on the validation data; its weights are in the graft now
  int64_t best_step = 0;
};

// One run of training on a model, which other requests may use meanwhile: passes take turns. One at a time on a model
// (kUsage). With `full` the model itself is what changes: no engine may be on it until the training is gone.
//
// Started as one of several processes by mpirun or srun, all make the same Training and call the same members; they
// share the work, and rank 0 alone writes files (docs/scale.md).
//
// All members but Stop are called by one thread at a time. Every call may throw Error; after one from Step the last
// checkpoint stays, and a Training with resume "auto" goes on from it.
class Training {
 public:
  using Lines = std::function<void(const std::string& line)>;  // what is worth telling while it goes on

  // Reads the data, makes the graft, and takes the newest checkpoint where config.resume is "auto". Of a config with
  // several Stages(), one of them; kUsage otherwise.
  Training(const Model& model, const TrainConfig& config, const Lines& lines = nullptr);
  Training(Training&&) noexcept;
  Training& operator=(Training&&) noexcept;
  ~Training();

  const TrainConfig& config() const;
  const std::string& kind() const;  // of the graft that is trained
  const DatasetReport& data() const;
  int64_t valid_examples() const;
  int64_t step() const;  // done
  int64_t total_steps() const;
  // The first example, with what is trained on in [brackets] or in green.
  std::string Preview(bool color) const;
  std::vector<PreviewPart> PreviewParts() const;
  // Runs two micro-batches; the run is the same with it and without.
  // ranks: the processes that would share it; where they do already, they count.
  TrainPlan Plan(int ranks = 1);
  // kUsage where answers would never end, because their stop token is not trained, unless config.yes. Step does it too.
  void RequireStopToken() const;

  // The next step, with validation and checkpoint where they are due; nothing where the run has ended, be it by Stop.
  // Behind the last one the graft has the weights of the best validation.
  std::optional<StepReport> Step();
  // Ends the Step under way behind its micro-batch, undone, with a checkpoint; the next Step goes on. Any thread may
  // call it, and a signal handler.
  void Stop() noexcept;
  const TrainResult& result() const;  // of the Step that returned nothing

  // Mean loss on the validation data now; kUsage without any.
  double Evaluate();
  // Writes what is trained as it is now; empty: into config.output. A bundle where heads are trained beside it.
  void Save(const std::string& directory = "");
  // What is trained, as it is now, for requests on the same model; later steps do not change it. kUsage with "full".
  Adapter adapter() const;

  // At the end. numerics.json and numerics.txt in config.output, and a line for each kind of value.
  std::vector<std::string> WriteNumerics();
  // What draft heads are good for: accuracy by depth on the validation data (else on the training data), the best tree
  // for this machine's cost of a pass, and what that brings by generating: heads_report.json and tree.json in
  // config.output, and lines for people; none where no heads are trained. The training ends with it.
  std::vector<std::string> ReportHeads();

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

// The most resident memory that this process had; 0 where the system does not say.
int64_t PeakResidentBytes();

}  // namespace cambium
