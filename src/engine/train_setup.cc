// What a training's options mean, and which of them do not fit together.
#include "engine/train_setup.h"

#include <charconv>

#include "base/check_range.h"
#include "engine/train_fields.h"

namespace cambium {
namespace {

// "q_proj=16" each.
std::map<std::string, double> ParsePattern(const char* flag, const std::vector<std::string>& items) {
  std::map<std::string, double> pattern;
  for (const std::string& item : items) {
    const size_t equals = item.find('=');
    double value = 0;
    const char* const end = item.data() + item.size();
    const char* const begin = equals == std::string::npos ? end : item.data() + equals + 1;
    const auto [stop, error] = std::from_chars(begin, end, value);
    if (equals == std::string::npos || equals == 0 || error != std::errc() || stop != end || !(value > 0)) {
      Fail(ErrorCode::kUsage, flag, ": \"", item, "\" is not NAME=NUMBER");
    }
    pattern[item.substr(0, equals)] = value;
  }
  return pattern;
}

// What beside() takes: DeepSeek-V3's auxiliary loss (the mean over depths), or Medusa-2's.
void CheckBeside(const TrainConfig& c) {
  const char* const flag = c.joint ? "--joint" : "--mtp-weight";
  CheckRange("--mtp-weight", static_cast<double>(c.mtp_weight), 0, 1000);
  CheckRange("--joint-weight", static_cast<double>(c.joint_weight), 0, 1000);
  if (c.joint && c.mtp_weight > 0) Fail(ErrorCode::kUsage, "--joint and --mtp-weight: give one of them");
  const std::string heads = HeadsBeside(c);
  const bool fits = heads == "mtp" ? !c.joint || !c.parallel : c.joint && heads == "medusa";
  if (!fits) {
    Fail(ErrorCode::kUsage, flag, ": --with-heads is \"", heads, "\", expected ",
         c.joint ? "medusa or mtp, not --parallel" : "mtp");
  }
  if (c.graft != "lora" && (c.joint || c.graft != "full")) {
    Fail(ErrorCode::kUsage, flag, ": --graft is ", c.graft, ", expected lora", c.joint ? "" : " or full");
  }
  if (c.graft == "full" && c.draft_vocab > 0) {
    Fail(ErrorCode::kUsage,
         "--draft-vocab: with --graft full the head is trained, of which a draft vocabulary is a copy");
  }
  if (c.lr && !(*c.lr > 0)) Fail(ErrorCode::kUsage, "--lr is 0; ", flag, " trains heads at a multiple of it");
}

void CheckRanges(const TrainConfig& c) {
  CheckRange("--batch-size", static_cast<double>(c.batch_size), 1, 1 << 20);
  CheckRange("--seq-len", static_cast<double>(c.seq_len), 2, 1 << 24);
  CheckRange("--accumulate", static_cast<double>(c.accumulate), 1, 1 << 20);
  CheckRange("--steps", static_cast<double>(c.steps), 0, 1e12);
  CheckRange("--epochs", c.epochs.value_or(3), c.steps > 0 ? 0 : 1e-9, 1e6);
  CheckRange("--lr", static_cast<double>(c.lr.value_or(0)), 0, 100);
  CheckRange("--warmup", static_cast<double>(c.warmup), 0, 1e12);
  CheckRange("--weight-decay", static_cast<double>(c.weight_decay), 0, 100);
  CheckRange("--clip", static_cast<double>(c.clip), 0, 1e30);
  CheckRange("--draft-vocab", static_cast<double>(c.draft_vocab), 0, 1 << 30);
  CheckRange("--cache-gb", c.cache_gb, 0, 1e6);
  CheckRange("--feature-weight", static_cast<double>(c.feature_weight.value_or(0)), 0, 1e6);
  CheckRange("--heads-lr", static_cast<double>(c.heads_lr), 0, 100);
  CheckRange("--distill-tokens", static_cast<double>(c.distill_tokens), 1, 1 << 24);
  CheckRange("--dist-timeout", c.dist_timeout, 0, 1e6);
  CheckRange("--distill-temp", static_cast<double>(c.distill_temp), 0, 100);
}

}  // namespace

std::string HeadsBeside(const TrainConfig& c) { return !c.joint && c.with_heads.empty() ? "mtp" : c.with_heads; }

void TrainConfig::Check() const {
  const TrainConfig& c = *this;
  if (TrainsBeside(c)) CheckBeside(c);
  CheckRanges(c);
  SetupOf(c);
  const auto one_of = [](const char* flags, const auto& member, const std::string&, const Choices& choices = {}) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(member)>, std::string>) {
      if (choices.empty() || std::ranges::find(choices, member) != choices.end()) return;
      Fail(ErrorCode::kUsage, "--", FieldName(flags), ": \"", member, "\" is neither ", choices[0], " nor ",
           choices[1]);
    }
  };
  VisitTrainFields(c, one_of);
  if (c.graft == "full" && !c.init_from.empty()) {
    Fail(ErrorCode::kUsage, "--init-from: full fine-tuning starts from MODEL; give the tuned model there");
  }
  if (!c.with_heads.empty() && (!IsHeads(c.with_heads) || IsHeads(c.graft))) {
    Fail(ErrorCode::kUsage, "--with-heads \"", c.with_heads, "\" wants draft heads behind an adapter, --graft is ",
         c.graft);
  }
  const bool heads = IsHeads(c.graft) || !c.with_heads.empty() || TrainsBeside(c);
  if (!c.distill.empty() && !heads && c.refresh_heads.empty()) {
    Fail(ErrorCode::kUsage, "--distill is for draft heads, --graft is ", c.graft);
  }
}

std::vector<TrainConfig> TrainConfig::Stages() const {
  TrainConfig tune = *this, heads = *this;
  if (TrainsBeside(*this)) tune.with_heads = heads.with_heads = HeadsBeside(*this);
  if (mtp_weight > 0 || with_heads.empty()) return {tune};
  if (output.empty()) Fail(ErrorCode::kUsage, "--with-heads: --output is required, a directory for both runs");
  heads.joint = false;
  heads.graft = with_heads;
  heads.with_heads.clear();
  heads.init_from.clear();
  heads.bundle = output;
  heads.output = output + "/" + with_heads;
  if (joint) return {heads, tune};
  heads.with_graft = output;
  tune.with_heads.clear();
  tune.distill.clear();  // the answers are for the heads
  return {tune, heads};
}

TrainSetup SetupOf(const TrainConfig& c) {
  TrainSetup setup;
  setup.dataset.format = c.format;
  setup.dataset.max_tokens = c.seq_len;
  setup.dataset.train_on_prompt = c.train_on_prompt;
  setup.dataset.use_template = !c.raw;
  setup.dataset.skip_bad = c.skip_bad;
  setup.dataset.ignored_fields = c.ignore_fields;

  TrainOptions& t = setup.train;
  t.precision = ParsePrecision(c.precision);
  t.batch = {.batch_size = c.batch_size,
             .pack_rows = c.pack ? c.batch_size * c.seq_len : 0,
             .accumulate = c.accumulate,
             .shuffle = !c.no_shuffle,
             .seed = c.seed};
  t.optimizer.lr = c.lr.value_or(0);
  t.optimizer.schedule = ParseSchedule(c.schedule);
  t.optimizer.warmup = c.warmup;
  t.optimizer.weight_decay = c.weight_decay;
  t.optimizer.clip = c.clip;
  t.optimizer.eight_bit = c.adam_8bit;
  t.steps = c.steps;
  t.epochs = c.epochs.value_or(0);
  t.checkpoint_activations = c.checkpoint_activations;
  t.eval_every = c.eval_every;
  t.patience = c.patience;
  t.save_every = c.save_every;
  t.keep = c.keep;
  t.seed = c.seed;
  t.heads.cache_gb = c.cache_gb;
  t.heads.teacher = c.labels == "model";
  if (TrainsBeside(c)) {
    t.heads.teacher = c.joint;
    t.heads.decay = c.joint ? 0.8f : 1.0f;
    t.heads_weight = c.joint ? c.joint_weight : c.mtp_weight / static_cast<float>(c.heads);
    t.heads_lr_scale = c.heads_lr / c.lr.value_or(1);
  }

  GraftOptions& g = setup.graft;
  g.rank = c.rank;
  g.alpha = c.alpha;
  g.rslora = c.rslora;
  g.dropout = c.dropout;
  g.dora = c.dora;
  g.pissa = c.pissa;
  g.targets = c.targets;
  g.rank_pattern = ParsePattern("--rank-pattern", c.rank_pattern);
  g.alpha_pattern = ParsePattern("--alpha-pattern", c.alpha_pattern);
  g.length = c.length;
  g.prefix_init = c.prefix_init;
  g.mlp_width = c.prefix_mlp;
  g.variant = c.variant;
  g.reduction = c.reduction;
  g.activation = c.activation;
  g.adapter_init = c.adapter_init;
  g.heads = c.heads;
  g.own_heads = c.own_heads;
  g.parallel = c.parallel;
  g.layer = c.layer;
  g.seed = c.seed;
  g.working = PlanOf(t.precision).storage;
  return setup;
}

}  // namespace cambium
