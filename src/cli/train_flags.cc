#include "cli/train_flags.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <iostream>

#include <fmt/format.h>

#include "base/isa.h"
#include "cli/distill.h"
#include "io/model_cache.h"
#include "train/plan.h"

namespace cambium::cli {

void AddTrainOptions(CLI::App& verb, TrainFlags& f) {
  verb.option_defaults()->always_capture_default();  // --print-config shows them
  verb.add_option("MODEL", f.model, "A GGUF file, a Hugging Face directory, a cached name, or an alias (smollm2)");
  verb.add_option("--data", f.data, "The examples: JSON lines, a JSON array, or a text (docs/training.md)");
  verb.add_option("--valid", f.valid, "Examples to validate on");
  verb.add_option("--valid-split", f.valid_split, "Or the share of --data to validate on, 0 to 1");
  verb.add_option("--format", f.format, "auto, chat, completions, text, alpaca, sharegpt, ids or plain");
  verb.add_option("-o,--output", f.directory, "Directory for the adapter or model, checkpoints and metrics");
  verb.add_option("--config", f.config, "A TOML file with these options; flags win");
  verb.add_flag("--print-config", f.print_config, "Print the options as TOML and stop");

  verb.add_option("--graft", f.graft, "What is trained: " + GraftKinds());
  verb.add_option("--rank", f.graft_options.rank, "Rank of a LoRA");
  verb.add_option("--alpha", f.graft_options.alpha, "LoRA's scale is alpha / rank");
  verb.add_flag("--rslora", f.graft_options.rslora, "Scale by alpha / sqrt(rank)");
  verb.add_flag("--dora", f.graft_options.dora, "Train the length of the adapted matrix's rows too (DoRA)");
  verb.add_flag("--pissa", f.graft_options.pissa, "Begin from the matrices' leading singular vectors (PiSSA)");
  verb.add_option("--rank-pattern", f.rank_pattern, "Other ranks by linear: q_proj=16,down_proj=4")->delimiter(',');
  verb.add_option("--alpha-pattern", f.alpha_pattern, "Other alphas by linear")->delimiter(',');
  verb.add_option("--dropout", f.graft_options.dropout, "LoRA's dropout");
  verb.add_option("--targets", f.graft_options.targets, "Linears to adapt, such as q_proj,v_proj (default: all)")
      ->delimiter(',');
  verb.add_option("--length", f.graft_options.length, "Virtual tokens of a prefix or prompt");
  verb.add_option("--prefix-init", f.graft_options.prefix_init, "How a prefix or prompt begins: text, random or zero");
  verb.add_option("--init-text", f.init_text, "The text it begins as (default: the beginning of the data)");
  verb.add_option("--prefix-mlp", f.graft_options.mlp_width, "Train a prefix through an MLP of this width (0: directly)");
  verb.add_option("--variant", f.graft_options.variant, "Of an adapter: houlsby, pfeiffer, parallel or scaled-parallel");
  verb.add_option("--reduction", f.graft_options.reduction, "An adapter's bottleneck has hidden / reduction values");
  verb.add_option("--activation", f.graft_options.activation, "An adapter's: relu, swish, gelu, gelu_new or tanh");
  verb.add_option("--adapter-init", f.graft_options.adapter_init, "zero-up (no effect at first), bert or houlsby");
  verb.add_option("--heads", f.graft_options.heads, "Draft heads: how many tokens ahead they guess");
  verb.add_flag("--own-heads", f.graft_options.own_heads, "Medusa version 1: an output head of its own for each");
  verb.add_flag("--parallel", f.graft_options.parallel, "mtp: a block for each depth, as Meta's, not one used again");
  verb.add_option("--layer", f.graft_options.layer, "exit: how many blocks run before it (0: half of them)");
  verb.add_option("--draft-vocab", f.draft_vocab, "Draft heads choose from the most frequent tokens of --data (0: all)");
  verb.add_option("--labels", f.labels, "Draft heads learn what the model says, or the text's own tokens")
      ->check(CLI::IsMember({"model", "text"}));
  verb.add_option("--feature-weight", f.feature_weight,
                  "With labels of the model: how much its hidden states count beside its tokens (default: mtp 10, others 0)");
  verb.add_option("--distill", f.distill, "Draft heads: prompts, as --data has them, that the model answers; heads learn its answers");
  verb.add_option("--distill-tokens", f.distill_tokens, "Most tokens of such an answer");
  verb.add_option("--distill-temp", f.distill_temp, "Temperature of such answers (0: greedy)");
  verb.add_option("--heads-lr", f.heads_lr, "Learning rate of draft heads");
  verb.add_option("--cache-gb", f.train.heads.cache_gb, "Draft heads: most disk for the model's hidden states (0: none)");
  verb.add_option("--with-graft", f.with_graft, "Draft heads: the fine-tune that they are for");
  verb.add_option("--with-heads", f.with_heads, "After the adapter, train draft heads for it: medusa, mtp or exit");
  verb.add_option("--mtp-weight", f.mtp_weight, "Train MTP beside a lora or the full model: its weight in the loss (0: not)");
  verb.add_flag("--joint", f.joint, "--with-heads first alone, then with the lora, which stays near the model (Medusa-2)");
  verb.add_option("--joint-weight", f.joint_weight, "Weight of the heads' loss then");
  verb.add_option("--refresh-heads", f.refresh_heads, "Train the heads of this bundle again, for its fine-tune");
  verb.add_option("--init-from", f.init_from, "Start from this adapter");

  verb.add_option("--batch-size", f.train.batch.batch_size, "Examples in a micro-batch");
  verb.add_option("--seq-len", f.sequence_length, "Tokens of an example; longer ones are cut");
  verb.add_flag("--pack", f.pack, "Fill micro-batches to batch-size x seq-len tokens; examples do not see each other");
  verb.add_option("--accumulate", f.train.batch.accumulate, "Micro-batches a step");
  verb.add_option("--steps", f.train.steps, "Steps (0: what --epochs take)");
  verb.add_option("--epochs", f.train.epochs, "Times through the data");
  verb.add_option("--lr", f.train.optimizer.lr, "Learning rate");
  verb.add_option("--schedule", f.schedule, "cosine, linear or constant");
  verb.add_option("--warmup", f.train.optimizer.warmup, "Steps of warm-up");
  verb.add_option("--weight-decay", f.train.optimizer.weight_decay, "Decoupled weight decay");
  verb.add_option("--clip", f.train.optimizer.clip, "Largest global gradient norm (0: no clipping)");
  verb.add_flag("--adam-8bit", f.train.optimizer.eight_bit, "Keep AdamW's moments in 8 bits");
  verb.add_option("--precision", f.precision, "fp32, bf16 or fp16");
  verb.add_flag("--numerics-report", f.numerics, "Exponents of weights, activations and gradients: numerics.txt, .json");
  verb.add_flag("--checkpoint-activations", f.train.checkpoint_activations, "Less memory, about a third more time");
  verb.add_option("--seed", f.train.seed, "Seed of the order, the new adapter and dropout");
  verb.add_flag("--no-shuffle", f.no_shuffle, "Keep the order of the data");
  verb.add_flag("--train-on-prompt", f.dataset.train_on_prompt, "Train on every token, not only on answers");
  verb.add_flag("--raw", f.raw, "Completions and alpaca without the chat template");
  AddIgnoreFields(verb, f.dataset.ignored_fields);
  verb.add_flag("--skip-bad", f.dataset.skip_bad, "Skip and count bad lines");

  verb.add_option("--eval-every", f.train.eval_every, "Steps between validations (0: each epoch)");
  verb.add_option("--patience", f.train.patience, "Stop after so many validations without a better one (0: never)");
  verb.add_option("--save-every", f.train.save_every, "Steps between checkpoints");
  verb.add_option("--keep", f.train.keep, "Checkpoints kept, at least 2");
  verb.add_option("--resume", f.resume, "auto goes on from the newest whole checkpoint; never")
      ->check(CLI::IsMember({"auto", "never"}));
  verb.add_flag("-y,--yes", f.yes, "Train even if the stop token is not trained");
  verb.add_option("-t,--threads", f.threads, "Threads (0: every core that may be used)")->envname("CAMBIUM_THREADS");
  AddOutput(verb, f.output);
}

bool ApplyConfig(CLI::App& verb, TrainFlags& flags) {
  ApplyConfigFile(verb, flags.config);
  if (!flags.print_config) return false;
  flags.print_config = false;
  Write(verb.config_to_str(true, false));
  return true;
}

void PrepareBeside(TrainFlags& f) {
  const char* const flag = f.joint ? "--joint" : "--mtp-weight";
  CheckRange("--mtp-weight", static_cast<double>(f.mtp_weight), 0, 1000);
  CheckRange("--joint-weight", static_cast<double>(f.joint_weight), 0, 1000);
  if (f.joint && f.mtp_weight > 0) Fail(ErrorCode::kUsage, "--joint and --mtp-weight: give one of them");
  if (!f.joint && f.with_heads.empty()) f.with_heads = "mtp";
  if (f.joint ? f.with_heads != "medusa" && (f.with_heads != "mtp" || f.graft_options.parallel) : f.with_heads != "mtp") {
    Fail(ErrorCode::kUsage, flag, ": --with-heads is \"", f.with_heads, "\", expected ",
         f.joint ? "medusa or mtp, not --parallel" : "mtp");
  }
  if (f.graft != "lora" && (f.joint || f.graft != "full")) {
    Fail(ErrorCode::kUsage, flag, ": --graft is ", f.graft, ", expected lora", f.joint ? "" : " or full");
  }
  if (f.graft == "full" && f.draft_vocab > 0) {
    Fail(ErrorCode::kUsage, "--draft-vocab: with --graft full the head is trained, of which a draft vocabulary is a copy");
  }
  if (!(f.train.optimizer.lr > 0)) Fail(ErrorCode::kUsage, "--lr is 0; ", flag, " trains heads at a multiple of it");
  f.train.heads.teacher = f.joint;
  f.train.heads.decay = f.joint ? 0.8f : 1.0f;
  f.train.heads_weight = f.joint ? f.joint_weight : f.mtp_weight / static_cast<float>(f.graft_options.heads);
  f.train.heads_lr_scale = f.heads_lr / f.train.optimizer.lr;
}

namespace {

template <class F>
auto Required(const std::string& value, const char* name, const F& use) {
  if (value.empty()) Fail(ErrorCode::kUsage, name, " is required");
  return use(value);
}

// "q_proj=16" each.
std::map<std::string, double> ParsePattern(const char* flag, const std::vector<std::string>& items) {
  std::map<std::string, double> pattern;
  for (const std::string& item : items) {
    const size_t equals = item.find('=');
    double value = 0;
    const char *const begin = item.data() + std::min(equals, item.size() - 1) + 1, *const end = item.data() + item.size();
    const auto [stop, error] = std::from_chars(begin, end, value);
    if (equals == std::string::npos || equals == 0 || error != std::errc() || stop != end || !(value > 0)) {
      Fail(ErrorCode::kUsage, flag, ": \"", item, "\" is not NAME=NUMBER");
    }
    pattern[item.substr(0, equals)] = value;
  }
  return pattern;
}

// Turns flags into options and checks them; members of the session need the results before its body runs.
std::string Prepare(TrainFlags& f) {
  CheckRange("--threads", f.threads, 0, 1024);
  CheckRange("--batch-size", static_cast<double>(f.train.batch.batch_size), 1, 1 << 20);
  CheckRange("--seq-len", static_cast<double>(f.sequence_length), 2, 1 << 24);
  CheckRange("--accumulate", static_cast<double>(f.train.batch.accumulate), 1, 1 << 20);
  CheckRange("--steps", static_cast<double>(f.train.steps), 0, 1e12);
  CheckRange("--epochs", f.train.epochs, f.train.steps > 0 ? 0 : 1e-9, 1e6);
  CheckRange("--lr", static_cast<double>(f.train.optimizer.lr), 0, 100);
  CheckRange("--warmup", static_cast<double>(f.train.optimizer.warmup), 0, 1e12);
  CheckRange("--weight-decay", static_cast<double>(f.train.optimizer.weight_decay), 0, 100);
  CheckRange("--clip", static_cast<double>(f.train.optimizer.clip), 0, 1e30);
  f.train.precision = ParsePrecision(f.precision);
  f.train.optimizer.schedule = ParseSchedule(f.schedule);
  f.train.batch.shuffle = !f.no_shuffle;
  f.train.batch.seed = f.train.seed;
  f.train.batch.pack_rows = f.pack ? f.train.batch.batch_size * f.sequence_length : 0;
  f.dataset.format = f.format;
  f.dataset.max_tokens = f.sequence_length;
  f.dataset.use_template = !f.raw;
  f.graft_options.seed = f.train.seed;
  f.graft_options.rank_pattern = ParsePattern("--rank-pattern", f.rank_pattern);
  f.graft_options.alpha_pattern = ParsePattern("--alpha-pattern", f.alpha_pattern);
  if (f.graft == "full" && !f.init_from.empty()) {
    Fail(ErrorCode::kUsage, "--init-from: full fine-tuning starts from MODEL; give the tuned model there");
  }
  CheckRange("--draft-vocab", static_cast<double>(f.draft_vocab), 0, 1 << 30);
  CheckRange("--cache-gb", f.train.heads.cache_gb, 0, 1e6);
  CheckRange("--feature-weight", static_cast<double>(f.feature_weight.value_or(0)), 0, 1e6);
  CheckRange("--heads-lr", static_cast<double>(f.heads_lr), 0, 100);
  if (!f.with_heads.empty() && (!IsHeads(f.with_heads) || IsHeads(f.graft))) {
    Fail(ErrorCode::kUsage, "--with-heads \"", f.with_heads, "\" wants draft heads behind an adapter, --graft is ", f.graft);
  }
  CheckRange("--distill-tokens", static_cast<double>(f.distill_tokens), 1, 1 << 24);
  CheckRange("--distill-temp", static_cast<double>(f.distill_temp), 0, 100);
  if (!f.distill.empty() && !IsHeads(f.graft) && f.refresh_heads.empty() && !f.beside()) {
    Fail(ErrorCode::kUsage, "--distill is for draft heads, --graft is ", f.graft);
  }
  if (!f.refresh_heads.empty()) f.with_graft = f.init_from = f.refresh_heads;
  f.train.heads.teacher = f.labels == "model";
  if (f.beside()) PrepareBeside(f);
  ApplyIsaFromEnv();
  return Required(f.model, "MODEL", [](const std::string& model) { return ResolveModel(model); });
}

// What a prefix begins as: the text asked for, or the data from its first example on.
std::vector<int32_t> InitIds(const TrainFlags& f, const Tokenizer& tokenizer, const Dataset& data) {
  if (!f.init_text.empty()) return tokenizer.Encode(f.init_text, true, false);
  std::vector<int32_t> ids;
  for (const Example& example : data.examples) {
    if (static_cast<int64_t>(ids.size()) >= f.graft_options.length) break;
    ids.insert(ids.end(), example.ids.begin(), example.ids.end());
  }
  return ids;
}

// The most frequent tokens of the training text, and what ends a text.
void ChooseDraftTokens(TrainFlags& f, const Dataset& data, const Tokenizer& tokenizer, int64_t vocab) {
  GraftOptions& options = f.graft_options;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.IsEndOfGeneration(id)) options.end_tokens.push_back(id);
  }
  if (f.draft_vocab == 0 || f.draft_vocab >= vocab) return;
  std::vector<int64_t> count(static_cast<size_t>(vocab));
  for (const Example& example : data.examples) {
    for (const int32_t id : example.ids) ++count[static_cast<size_t>(id)];
  }
  for (const int32_t id : options.end_tokens) count[static_cast<size_t>(id)] = std::numeric_limits<int64_t>::max();
  std::vector<int32_t>& ids = options.draft_tokens;
  for (int32_t id = 0; id < static_cast<int32_t>(vocab); ++id) {
    if (count[static_cast<size_t>(id)] > 0) ids.push_back(id);
  }
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    return count[static_cast<size_t>(a)] > count[static_cast<size_t>(b)];
  });
  ids.resize(std::min(ids.size(), static_cast<size_t>(f.draft_vocab)));
  std::sort(ids.begin(), ids.end());
}

// The examples of both, and what was lost on the way to them.
void Join(Dataset& data, Dataset more) {
  std::move(more.examples.begin(), more.examples.end(), std::back_inserter(data.examples));
  DatasetReport &sum = data.report, &own = more.report;
  for (int64_t DatasetReport::*const count :
       {&DatasetReport::examples, &DatasetReport::tokens, &DatasetReport::trained_tokens,
        &DatasetReport::truncated_examples, &DatasetReport::truncated_tokens, &DatasetReport::without_targets}) {
    sum.*count += own.*count;
  }
  // The model ends its answers where it ends them; nothing needs to teach it.
  if (sum.answers == 0) sum.answers = sum.answers_stopped = 1;
}

// The heads of a bundle, whatever fine-tune stands beside them.
std::unique_ptr<Graft> LoadInitial(const TrainFlags& f, Transformer& model) {
  if (!IsHeads(f.graft)) return LoadGraft(f.init_from, model.base());
  std::unique_ptr<Graft> heads = LoadPart(f.init_from, model.base(), true);
  if (heads == nullptr) Fail(ErrorCode::kData, f.init_from, ": holds no draft heads");
  return heads;
}

}  // namespace

TrainSession::TrainSession(TrainFlags& f)
    : model_path(Prepare(f)), pool(f.threads > 0 ? f.threads : DefaultThreads()), tokenizer(LoadTokenizer(model_path)) {
  f.graft_options.base = model_path;
  f.graft_options.working = PlanOf(f.train.precision).storage;
  if (!f.data.empty() || f.distill.empty()) {
    data = Required(f.data, "--data", [&](const std::string& path) { return LoadDataset(path, tokenizer, f.dataset); });
  }
  if (!f.valid.empty()) valid = LoadDataset(f.valid, tokenizer, f.dataset);
  if (!f.directory.empty()) lock.emplace(f.directory);
  model = std::make_unique<Transformer>(LoadWeights(pool, model_path), pool);
  if (!f.refresh_heads.empty() && !IsHeads(f.graft)) {
    const std::unique_ptr<Graft> heads = LoadPart(f.refresh_heads, model->base(), true);
    if (heads == nullptr) Fail(ErrorCode::kData, f.refresh_heads, ": holds no draft heads to refresh");
    f.graft = heads->kind();
  }
  if (IsHeads(f.graft)) f.train.optimizer.lr = f.heads_lr;
  if (IsHeads(f.graft) || f.beside()) {
    if (!f.with_graft.empty() && !f.beside()) {
      if (auto part = LoadPart(f.with_graft, model->base(), false); part != nullptr) trunk.push_back(std::move(part));
    }
    f.train.heads.trunk.clear();
    for (const auto& part : trunk) f.train.heads.trunk.push_back(part.get());
    if (!f.distill.empty()) Join(data, Distill(*this, f));
    ChooseDraftTokens(f, data, tokenizer, model->config().vocab);
  }
  if (f.valid.empty() && f.valid_split != 0) valid = SplitValidation(data, f.valid_split, f.train.seed);
  f.graft_options.init_ids = InitIds(f, tokenizer, data);
  graft = f.init_from.empty() ? MakeGraft(f.graft, f.graft_options, model->base()) : LoadInitial(f, *model);
  if (f.sequence_length + graft->slots_before() > model->config().context) {
    Fail(ErrorCode::kUsage, "--seq-len: ", f.sequence_length, " is beyond the model's ", model->config().context,
         " positions");
  }
  if (f.beside()) {
    with_heads = f.joint && !f.directory.empty() ? LoadPart(f.directory, model->base(), true)
                                                 : MakeGraft(f.with_heads, f.graft_options, model->base());
    Check(with_heads != nullptr, "the first stage of --joint leaves heads");
    f.train.with_heads = with_heads.get();
    if (f.graft == "full") f.train.heads.owner = graft.get();
  }
  const bool mtp = (with_heads != nullptr ? *with_heads : *graft).kind() == "mtp";
  f.train.heads.feature_weight = f.feature_weight.value_or(mtp ? 10.0f : 0.0f);
  trainer = std::make_unique<Trainer>(*model, *graft, data.examples, valid.examples, f.train, f.directory);
}

int64_t PrintPlan(TrainSession& session, const TrainFlags& flags) {
  const TrainPlan plan = MakePlan(*session.trainer, *session.model, session.data.examples, flags.train.batch);
  const DatasetReport& r = session.data.report;
  const auto line = [&](const std::string& text) { Note(flags.output, text); };
  line(fmt::format("training    {} parameters ({})", plan.parameters, flags.graft));
  line(fmt::format("data        {} examples, {} tokens, {} trained on", r.examples, r.tokens, r.trained_tokens));
  if (r.truncated_examples + r.without_targets + r.skipped > 0) {
    line(fmt::format("            {} examples cut ({} tokens lost), {} dropped without a trained token, {} bad lines{}",
                     r.truncated_examples, r.truncated_tokens, r.without_targets, r.skipped,
                     r.first_skipped.empty() ? "" : " (" + r.first_skipped + ")"));
  }
  if (!session.valid.examples.empty()) line(fmt::format("validation  {} examples", session.valid.examples.size()));
  line(fmt::format("work        {} steps, {} tokens; about {:.0f} s at {:.0f} tokens/s", plan.steps, plan.rows,
                   plan.seconds, plan.tokens_per_s));
  line(fmt::format("memory      about {} MiB at its peak", plan.peak_bytes >> 20));
  const bool stops = r.stop_token_trained();
  line(fmt::format("stop token  trained: {}", stops ? "yes" : "no"));
  if (!flags.output.quiet) {
    std::cerr << "example (what is trained on is " << (UseColor(stderr) ? "green" : "in brackets") << "):\n"
              << MaskPreview(session.data.examples.front(), session.tokenizer, UseColor(stderr)) << "\n";
  }
  if (flags.output.json) {
    nlohmann::ordered_json preview = nlohmann::ordered_json::array();
    for (const PreviewPart& part : PreviewParts(session.data.examples.front(), session.tokenizer)) {
      preview.push_back({{"text", part.text}, {"trained", part.trained}});
    }
    WriteJson({{"parameters", plan.parameters}, {"examples", r.examples}, {"tokens", r.tokens},
               {"trained_tokens", r.trained_tokens}, {"truncated_examples", r.truncated_examples},
               {"skipped", r.skipped}, {"steps", plan.steps}, {"seconds", plan.seconds},
               {"tokens_per_s", plan.tokens_per_s}, {"peak_bytes", plan.peak_bytes}, {"stop_token_trained", stops},
               {"validation_examples", session.valid.examples.size()}, {"preview", std::move(preview)}});
  }
  if (!stops && !flags.yes) {
    Fail(ErrorCode::kUsage, "the stop token is not trained, so answers would never end; end the texts with it, or give --yes");
  }
  return plan.peak_bytes;
}

}  // namespace cambium::cli
