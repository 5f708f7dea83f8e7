// From a model, data and options to a trainer.
#include <algorithm>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/isa.h"
#include "engine/train_defaults.h"
#include "engine/training_impl.h"
#include "io/sha256.h"
#include "scale/launch.h"

namespace cambium {
namespace {

// What a prefix begins as: the text asked for, or the data from its first example on.
std::vector<int32_t> InitIds(const TrainConfig& config, const Tokenizer& tokenizer, const Dataset& data) {
  if (!config.init_text.empty()) return tokenizer.Encode(config.init_text, true, false);
  std::vector<int32_t> ids;
  for (const Example& example : data.examples) {
    if (static_cast<int64_t>(ids.size()) >= config.length) break;
    ids.insert(ids.end(), example.ids.begin(), example.ids.end());
  }
  return ids;
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

// Of all files of a model: the file and the other parts of a split one, or what a directory has.
std::string ModelDigest(const std::string& path) {
  namespace fs = std::filesystem;
  const bool whole = fs::is_directory(path);
  const fs::path folder = whole ? fs::path(path) : fs::absolute(path).parent_path();
  const std::string name = fs::path(path).filename().string();
  const size_t part = name.find("-00001-of-");
  std::vector<std::string> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string other = entry.path().filename().string();
    const bool belongs =
        whole || other == name || (part != std::string::npos && other.starts_with(name.substr(0, part)));
    if (belongs && entry.is_regular_file()) files.push_back(entry.path().string());
  }
  std::ranges::sort(files);
  std::string digests;
  for (const std::string& file : files) digests += FileSha256(file);
  Sha256 hash;
  hash.Update({reinterpret_cast<const uint8_t*>(digests.data()), digests.size()});
  return hash.HexDigest();
}

const TrainConfig& Checked(const TrainConfig& config) {
  config.Check();
  if (!TrainsBeside(config) && !config.with_heads.empty()) {
    Fail(ErrorCode::kUsage, "--with-heads: two runs, each of TrainConfig::Stages()");
  }
  return config;
}

}  // namespace

TrainingClaim::TrainingClaim(Model::Impl& model, bool whole) : model_(model) {
  const std::lock_guard lock(model.users);
  if (model.trained)
    Fail(ErrorCode::kUsage, model.path, ": a training is under way on this model; end it, or load another");
  if (whole && model.engines > 0) {
    Fail(ErrorCode::kUsage, model.path, ": full fine-tuning changes the model, which ", model.engines,
         " engines serve; end them, or load another");
  }
  model.trained = true;
  model.trained_whole = whole;
}

TrainingClaim::~TrainingClaim() {
  const std::lock_guard lock(model_.users);
  model_.trained = model_.trained_whole = false;
}

Training::Impl::Impl(const Model& on, const TrainConfig& wanted, const Lines& tell)
    : config(Checked(wanted)),
      lines(tell != nullptr ? tell : [](const std::string&) {}),
      model(on),
      m(*model.shared()),
      ranks(JoinRanks(config.dist_timeout)),
      setup(SetupOf(config)),
      kind(config.graft),
      with_graft(config.with_graft),
      init_from(config.init_from),
      claim(m, config.graft == "full"),
      transformer(m.transformer.base()) {
  const std::lock_guard computing(m.compute);
  setup.train.ranks = ranks;
  if (ranks != nullptr) RequireAlikeRanks();
  ReadData();
  ResolveKind();
  if (IsHeads(kind) || TrainsBeside(config)) LoadTrunk();
  if (config.valid.empty() && config.valid_split != 0) valid = SplitValidation(data, config.valid_split, config.seed);
  SetDefaults();
  setup.graft.init_ids = InitIds(config, m.tokenizer, data);
  MakeGrafts();
  trainer = std::make_unique<Trainer>(transformer, *graft, data.examples, valid.examples, setup.train, config.output);
  Resume();
}

// What decides bits, and which calls ranks make. Data and what is trained are compared by the trainer.
void Training::Impl::RequireAlikeRanks() {
  for (const bool heads :
       {IsHeads(kind), TrainsBeside(config), !config.with_heads.empty(), !config.refresh_heads.empty()}) {
    if (heads)
      Fail(ErrorCode::kUsage, "draft heads are trained by one process, but there are ", ranks->size(), " ranks");
  }
  if (config.numerics_report) {
    Fail(ErrorCode::kUsage, "--numerics-report sees one process, but there are ", ranks->size(), " ranks");
  }
  std::vector<std::pair<std::string, std::string>> things = {
      {"the instruction set (CAMBIUM_ISA)", IsaName()},
      {"AMX", HasAmx() ? "in use" : "not in use"},
      {"the SHA-256 of the program", FileSha256("/proc/self/exe")},
      {"the SHA-256 of " + m.path, ModelDigest(m.path)}};
  const nlohmann::json options = nlohmann::json::parse(config.ToJson());
  for (const auto& [name, value] : options.items()) things.emplace_back(name, value.dump());
  RequireAlike(*ranks, things);
}

void Training::Impl::ReadData() {
  if (config.data.empty() && config.distill.empty()) Fail(ErrorCode::kUsage, "--data is required");
  if (!config.data.empty()) data = LoadDataset(config.data, m.tokenizer, setup.dataset);
  if (!config.valid.empty()) valid = LoadDataset(config.valid, m.tokenizer, setup.dataset);
  if (!config.output.empty() && IsFirst(ranks)) lock.emplace(config.output);
}

void Training::Impl::ResolveKind() {
  setup.graft.base = m.path;
  if (!config.refresh_heads.empty()) {
    with_graft = init_from = config.refresh_heads;
    if (!IsHeads(kind)) {
      const std::unique_ptr<Graft> heads = LoadPart(config.refresh_heads, m.transformer.base(), true);
      if (heads == nullptr) Fail(ErrorCode::kData, config.refresh_heads, ": holds no draft heads to refresh");
      kind = heads->kind();
    }
  }
}

// Steps of an epoch, nearly: packed examples are counted by their tokens.
int64_t Training::Impl::StepsOfAnEpoch() const {
  const int64_t own =
      config.pack ? (data.report.tokens + config.seq_len - 1) / config.seq_len : std::ssize(data.examples);
  const int64_t step = config.batch_size * config.accumulate;
  return std::max<int64_t>(1, (own + step - 1) / step);
}

// What depends on the model and on how much data there is.
void Training::Impl::SetDefaults() {
  if (!config.lr) config.lr = DefaultLearningRate(kind, m.transformer.config().hidden);
  if (!config.epochs) config.epochs = DefaultEpochs(StepsOfAnEpoch());
  setup.train.optimizer.lr = IsHeads(kind) ? config.heads_lr : *config.lr;
  setup.train.epochs = *config.epochs;
  if (TrainsBeside(config)) setup.train.heads_lr_scale = config.heads_lr / *config.lr;
}

void Training::Impl::LoadTrunk() {
  if (!with_graft.empty() && !TrainsBeside(config)) {
    if (auto part = LoadPart(with_graft, m.transformer.base(), false); part != nullptr)
      trunk.push_back(std::move(part));
  }
  for (const auto& part : trunk) setup.train.heads.trunk.push_back(part.get());
  if (!config.distill.empty()) Join(data, Distill(*this));
  ChooseDraftTokens();
}

// The most frequent tokens of the training text, and what ends a text.
void Training::Impl::ChooseDraftTokens() {
  const int64_t vocab = m.info.vocab;
  GraftOptions& options = setup.graft;
  for (int32_t id = 0; id < m.tokenizer.vocab_size(); ++id) {
    if (m.tokenizer.IsEndOfGeneration(id)) options.end_tokens.push_back(id);
  }
  if (config.draft_vocab == 0 || config.draft_vocab >= vocab) return;
  std::vector<int64_t> count(static_cast<size_t>(vocab));
  for (const Example& example : data.examples) {
    for (const int32_t id : example.ids) ++count[static_cast<size_t>(id)];
  }
  for (const int32_t id : options.end_tokens) count[static_cast<size_t>(id)] = std::numeric_limits<int64_t>::max();
  std::vector<int32_t>& ids = options.draft_tokens;
  for (int32_t id = 0; id < static_cast<int32_t>(vocab); ++id) {
    if (count[static_cast<size_t>(id)] > 0) ids.push_back(id);
  }
  std::stable_sort(ids.begin(), ids.end(),
                   [&](int32_t a, int32_t b) { return count[static_cast<size_t>(a)] > count[static_cast<size_t>(b)]; });
  ids.resize(std::min(ids.size(), static_cast<size_t>(config.draft_vocab)));
  std::sort(ids.begin(), ids.end());
}

// The heads of a bundle, whatever fine-tune stands beside them.
std::unique_ptr<Graft> Training::Impl::LoadInitial() {
  if (!IsHeads(kind)) return LoadGraft(init_from, m.transformer.base());
  std::unique_ptr<Graft> heads = LoadPart(init_from, m.transformer.base(), true);
  if (heads == nullptr) Fail(ErrorCode::kData, init_from, ": holds no draft heads");
  return heads;
}

void Training::Impl::MakeGrafts() {
  BaseModel& base = m.transformer.base();
  graft = init_from.empty() ? MakeGraft(kind, setup.graft, base) : LoadInitial();
  if (config.seq_len + graft->slots_before() > base.config().context) {
    Fail(ErrorCode::kUsage, "--seq-len: ", config.seq_len, " is beyond the model's ", base.config().context,
         " positions");
  }
  TrainOptions& options = setup.train;
  if (TrainsBeside(config)) {
    with_heads = config.joint && !config.output.empty() ? LoadPart(config.output, base, true)
                                                        : MakeGraft(HeadsBeside(config), setup.graft, base);
    if (with_heads == nullptr) {
      Fail(ErrorCode::kUsage, config.output, ": holds no draft heads; --joint trains them first, in a run of its own");
    }
    options.with_heads = with_heads.get();
    if (kind == "full") options.heads.owner = graft.get();
  }
  const bool mtp = (with_heads != nullptr ? *with_heads : *graft).kind() == "mtp";
  options.heads.feature_weight = config.feature_weight.value_or(mtp ? 10.0f : 0.0f);
}

void Training::Impl::Resume() {
  if (config.output.empty()) return;
  if (config.resume != "auto") {
    if (!IsFirst(ranks) || CheckpointStore(config.output + "/checkpoints", 2).Steps().empty()) return;
    Fail(ErrorCode::kUsage, config.output,
         ": holds checkpoints of an earlier run; give --resume auto or another directory");
  }
  std::vector<std::string> notes;
  if (trainer->Resume(notes)) lines("resumed after step " + std::to_string(trainer->step()));
  if (const int64_t before = trainer->lengthened_from(); before > 0) {
    lines("lengthened from " + std::to_string(before) + " to " + std::to_string(trainer->total_steps()) +
          " steps: the schedule is stretched over all of them, so the learning rate rises again here; one run of that "
          "length would have had other weights");
  }
  for (const std::string& note : notes) lines("damaged checkpoint passed over: " + note);
}

}  // namespace cambium
