#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "base/random.h"
#include "cambium/error.h"
#include "io/sha256.h"
#include "train/loss_head.h"

namespace cambium {
namespace {

std::vector<Parameter*> Parameters(Graft& graft, const TrainOptions& options) {
  std::vector<Parameter*> params;
  graft.VisitParams([&](Parameter& param) { params.push_back(&param); });
  if (params.empty()) Fail(ErrorCode::kUsage, "the graft has nothing to train");
  if (options.with_heads == nullptr) return params;
  options.with_heads->VisitParams([&](Parameter& param) {
    param.lr_scale = options.heads_lr_scale;
    params.push_back(&param);
  });
  return params;
}

// Half an epoch is half of the epoch's steps.
int64_t CountSteps(Batches& batches, double epochs) {
  double steps = 0;
  for (int64_t epoch = 0; static_cast<double>(epoch) < epochs; ++epoch) {
    steps += static_cast<double>(batches.StepsOf(epoch)) * std::min(1.0, epochs - static_cast<double>(epoch));
  }
  return std::max<int64_t>(1, std::llround(steps));
}

bool AllFinite(Tensor x) {
  return std::all_of(x.f32(), x.f32() + x.size(), [](float value) { return std::isfinite(value); });
}

uint64_t NoiseKey(uint64_t seed, int64_t step, int64_t micro) {
  const Philox::Block b = Philox(seed)(static_cast<uint64_t>(step), 0x64726f70 + static_cast<uint64_t>(micro));
  return (uint64_t{b[0]} << 32 | b[1]) | 1;
}

}  // namespace

Trainer::Trainer(Transformer& model, Graft& graft, std::span<const Example> train, std::span<const Example> valid,
                 const TrainOptions& options, std::string directory)
    : model_(model),
      graft_(graft),
      grafts_{&graft},
      train_(train),
      valid_(valid),
      options_(options),
      directory_(std::move(directory)),
      plan_(PlanOf(options.precision)),
      batches_(train, options.batch),
      tape_(plan_.storage),
      scaler_(plan_.scale_loss && options.scale_loss) {
  if (train.empty()) Fail(ErrorCode::kData, "no examples to train on");
  if (!(options.epochs > 0) && options.steps <= 0) Fail(ErrorCode::kUsage, "neither steps nor epochs are positive");
  optimizer_ = std::make_unique<Optimizer>(model.pool(), Parameters(graft, options), options.optimizer, plan_.storage,
                                           options.master_weights, options.ranks);
  Updated();
  if (Heads* const heads = (options.with_heads != nullptr ? *options.with_heads : graft_).heads(); heads != nullptr) {
    Check(options.with_heads == nullptr || graft_.prompt_length() == 0, "heads read the rows of the text alone");
    const bool trunk_runs = options.with_heads == nullptr || options.heads.teacher;
    heads_loss_ = std::make_unique<HeadsLoss>(model, *heads, plan_.compute, options.heads,
                                              std::vector{train, valid},
                                              trunk_runs ? directory_ : "");
  }
  total_steps_ = options.steps > 0 ? options.steps : CountSteps(batches_, options.epochs);
  if (options.ranks != nullptr) RequireSameStart();
  if (directory_.empty()) return;
  if (IsFirst(options.ranks)) store_.emplace(directory_ + "/checkpoints", options.keep);
  settings_ = MakeSettings();
}

void Trainer::RequireSameStart() {
  Check(heads_loss_ == nullptr, "draft heads are trained by one process");
  if (options_.batch.accumulate < options_.ranks->size()) {
    Fail(ErrorCode::kUsage, "--accumulate is ", options_.batch.accumulate, ", but there are ", options_.ranks->size(),
         " ranks: they share a step's micro-batches, so give at least as many");
  }
  std::vector<std::pair<std::string, std::string>> things;
  const nlohmann::json settings = MakeSettings();
  for (const auto& [name, value] : settings.items()) things.emplace_back(name, value.dump());
  Sha256 hash;
  for (const Optimizer::State& state : optimizer_->states()) {
    if (state.tensor) hash.Update(state.here);
  }
  things.emplace_back("the SHA-256 of what is trained", hash.HexDigest());
  RequireAlike(*options_.ranks, things);
}

Trainer::~Trainer() = default;

void Trainer::Updated() {
  graft_.AfterUpdate();
  if (options_.with_heads != nullptr) options_.with_heads->AfterUpdate();
}

std::vector<int32_t> Trainer::Fill(Pass& pass, const std::vector<const Example*>& micro) {
  pass.compute = plan_.compute;
  std::vector<int32_t> targets;
  for (size_t i = 0; i < micro.size(); ++i) {
    const Example& example = *micro[i];
    std::vector<int32_t> ids;
    for (int64_t row = 0; row < graft_.prompt_length(); ++row) ids.push_back(static_cast<int32_t>(-1 - row));
    if (!ids.empty()) {
      targets.insert(targets.end(), ids.size() - 1, -1);
      targets.push_back(example.trained[0] ? example.ids[0] : -1);
    }
    ids.insert(ids.end(), example.ids.begin(), example.ids.end());
    pass.Append(static_cast<int>(i), graft_.prefix_length(), ids).grafts = grafts_;
    for (size_t j = 1; j < example.ids.size(); ++j) targets.push_back(example.trained[j] ? example.ids[j] : -1);
    targets.push_back(-1);
  }
  return targets;
}

double Trainer::ForwardBackward(const std::vector<const Example*>& micro, float row_weight, uint64_t noise) {
  if (graft_.heads() != nullptr) {
    const double loss = heads_loss_->Run(micro, row_weight);
    if (!std::isfinite(loss)) Diverged(micro, loss);
    return loss;
  }
  const bool beside = heads_loss_ != nullptr;
  const Tensor teacher = beside && options_.heads.teacher ? heads_loss_->Teacher(micro) : Tensor();
  Pass pass;
  const std::vector<int32_t> targets = Fill(pass, micro);
  const int64_t layer = beside ? options_.with_heads->heads()->after_layer() : -1;
  if (layer >= 0) pass.capture = {layer};
  pass.training.tape = &tape_;
  pass.training.noise = noise;
  pass.training.gradient_storage = plan_.storage;
  pass.training.checkpoint = options_.checkpoint_activations;
  if (observe) observe(pass, false);
  tape_.Clear();
  model_.Forward(pass);
  Tensor dhidden = model_.workspace().New({pass.rows(), model_.config().hidden});
  const double loss = LossHead(model_, plan_.compute, pass.result.hidden, targets, row_weight, dhidden,
                               graft_.HeadGradient(), {.teacher = teacher});
  if (!std::isfinite(loss)) Diverged(micro, loss);
  if (beside) {
    Tensor dstates = dhidden;
    if (layer >= 0) {
      dstates = model_.workspace().New({pass.rows(), model_.config().hidden});
      std::memset(dstates.data, 0, static_cast<size_t>(dstates.bytes()));
      pass.training.dcaptured = {dstates};
    }
    const double heads = heads_loss_->RunOn(micro, layer >= 0 ? pass.result.captured[0] : pass.result.hidden,
                                            row_weight * options_.heads_weight, dstates);
    if (!std::isfinite(heads)) Diverged(micro, heads);
    heads_sum_ += heads;
  }
  model_.Backward(pass, dhidden);
  if (observe) observe(pass, true);
  return loss;
}

bool Trainer::Stopped(const std::atomic<bool>* stop) const {
  const bool here = stop != nullptr && *stop;
  if (options_.ranks == nullptr) return here;
  const std::vector<std::string> all = options_.ranks->Gather(here ? "1" : "");
  return std::ranges::any_of(all, [](const std::string& said) { return !said.empty(); });
}

std::optional<StepReport> Trainer::Step(const std::atomic<bool>* stop) {
  const auto start = std::chrono::steady_clock::now();
  Ranks* const ranks = options_.ranks;
  const int64_t rank = ranks == nullptr ? 0 : ranks->rank(), at_once = ranks == nullptr ? 1 : ranks->size();
  if (Stopped(stop)) return std::nullopt;
  DataCursor cursor = cursor_;
  const Batches::Step batch = batches_.Next(cursor);
  const float scale = scaler_.scale();
  const float row_weight = scale / static_cast<float>(batch.targets);
  std::vector<double> losses;
  heads_sum_ = 0;
  const int64_t count = std::ssize(batch.micro);
  for (int64_t first = 0; first < count; first += at_once) {
    if (ranks == nullptr && Stopped(stop)) return std::nullopt;
    optimizer_->gradients().BeginRound(first);
    if (const int64_t i = first + rank; i < count) {
      const uint64_t noise = NoiseKey(options_.seed, step_ + 1, i);
      losses.push_back(ForwardBackward(batch.micro[static_cast<size_t>(i)], row_weight, noise));
    }
    optimizer_->gradients().EndRound(first, count);
  }
  const double sum = SumInOrder(ranks, losses, batch.micro.size());
  StepReport metrics;
  metrics.step = step_ + 1;
  metrics.loss = sum / static_cast<double>(batch.targets);
  if (options_.with_heads != nullptr) metrics.heads_loss = heads_sum_ / static_cast<double>(batch.targets);
  metrics.loss_scale = static_cast<double>(scale);
  metrics.tokens = batch.rows;
  metrics.lr = LearningRate(options_.optimizer, step_ + 1, total_steps_);
  metrics.grad_norm = optimizer_->GradNorm(1 / scale);
  metrics.skipped = !std::isfinite(metrics.grad_norm);
  if (metrics.skipped && !(plan_.scale_loss && options_.scale_loss)) Diverged(batch.micro.front(), metrics.loss);
  if (!metrics.skipped) {
    optimizer_->Step(metrics.lr, 1 / scale, metrics.grad_norm);
    Updated();
  }
  scaler_.Update(metrics.skipped);
  cursor_ = cursor;
  ++step_;
  last_loss_ = metrics.loss;
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  if (ranks != nullptr) ranks->Took(elapsed.count());
  metrics.tokens_per_s = static_cast<double>(batch.rows) / elapsed.count();
  return metrics;
}

const Parameter* Trainer::FirstNonFinite() const {
  for (const Parameter* param : optimizer_->params()) {
    if (!AllFinite(param->value)) return param;
  }
  return nullptr;
}

std::string Trainer::LastCheckpoint() const {
  const std::vector<int64_t> saved = store_ ? store_->Steps() : std::vector<int64_t>();
  return saved.empty() ? "no checkpoint was saved yet" : "the last checkpoint is step " + std::to_string(saved.back());
}

// Finds where the first value that is not finite appears: in a parameter, a block's output, or a gradient.
void Trainer::Diverged(const std::vector<const Example*>& micro, double loss) {
  std::string where;
  if (const Parameter* const param = FirstNonFinite()) where = "parameter " + param->name;
  if (where.empty()) {
    Pass pass;
    Fill(pass, micro);
    for (int64_t layer = 0; layer < model_.config().layers; ++layer) pass.capture.push_back(layer);
    model_.Forward(pass);
    for (size_t layer = 0; layer < pass.result.captured.size() && where.empty(); ++layer) {
      if (!AllFinite(pass.result.captured[layer])) where = "the output of layer " + std::to_string(layer);
    }
    if (where.empty() && !AllFinite(pass.result.hidden)) where = "the final norm";
  }
  if (where.empty() && !std::isfinite(loss)) where = "the output head";
  for (const Parameter* param : optimizer_->params()) {
    if (where.empty() && !AllFinite(param->grad)) where = "the gradient of " + param->name;
  }
  Fail(ErrorCode::kRuntime, "step ", step_ + 1, ": the ", std::isfinite(loss) ? "gradient" : "loss",
       " is not finite; the first such value is in ", where.empty() ? "the activations" : where, "; ", LastCheckpoint(),
       "; try a lower lr");
}

double Trainer::ValidationLoss() {
  std::vector<double> sums;
  int64_t targets = 0;
  const size_t batch = static_cast<size_t>(std::max<int64_t>(1, options_.batch.batch_size));
  const size_t rank = options_.ranks == nullptr ? 0 : static_cast<size_t>(options_.ranks->rank());
  const size_t ranks = options_.ranks == nullptr ? 1 : static_cast<size_t>(options_.ranks->size());
  size_t count = 0;
  for (size_t begin = 0; begin < valid_.size(); begin += batch, ++count) {
    std::vector<const Example*> micro;
    for (size_t i = begin; i < std::min(valid_.size(), begin + batch); ++i) micro.push_back(&valid_[i]);
    for (const Example* example : micro) targets += example->targets();
    if (count % ranks != rank) continue;
    if (graft_.heads() != nullptr) {
      sums.push_back(heads_loss_->Run(micro, 0));
      continue;
    }
    Pass pass;
    const std::vector<int32_t> wanted = Fill(pass, micro);
    model_.Forward(pass);
    sums.push_back(LossHead(model_, plan_.compute, pass.result.hidden, wanted, 1.0f));
  }
  return SumInOrder(options_.ranks, sums, count) / static_cast<double>(targets);
}

bool Trainer::EvaluateNow(int64_t epoch_before) const {
  if (valid_.empty()) return false;
  if (step_ == total_steps_) return true;
  return options_.eval_every > 0 ? step_ % options_.eval_every == 0 : cursor_.epoch != epoch_before;
}

// Of the rows since it was last set, which is every tenth step.
std::vector<std::pair<double, double>> Trainer::HeadsRight() {
  std::vector<std::pair<double, double>> right;
  if (heads_loss_ == nullptr) return right;
  HeadAccuracy& accuracy = heads_loss_->accuracy();
  for (size_t d = 0; d < accuracy.rows.size(); ++d) right.emplace_back(accuracy.Top(d, 1), accuracy.Top(d, 5));
  if (step_ % 10 == 0) accuracy = HeadAccuracy(std::ssize(accuracy.rows));
  return right;
}

void Trainer::Validate(StepReport& report) {
  const double loss = ValidationLoss();
  if (!std::isfinite(loss)) {
    Save();
    Fail(ErrorCode::kRuntime, "step ", step_, ": the validation loss is ", loss, "; ", LastCheckpoint());
  }
  report.valid_loss = loss;
  report.best = !best_loss_ || loss < *best_loss_;
  evaluations_without_best_ = report.best ? 0 : evaluations_without_best_ + 1;
  if (report.best) {
    best_loss_ = loss;
    best_step_ = step_;
    SaveBest();
  }
  if (log_) log_->AddValidation(step_, loss);
}

void Trainer::End(TrainResult::End end) {
  if (saved_step_ != step_) Save();
  if (log_) log_->WritePlot();
  result_ = {end, step_, last_loss_, best_loss_, best_step_};
  if (end != TrainResult::End::kInterrupted) RestoreBest();
}

std::optional<StepReport> Trainer::Next(const Callbacks& callbacks) {
  if (store_ && !log_) log_ = std::make_unique<MetricsLog>(directory_, step_);
  const auto ended = [&](TrainResult::End end) {
    End(end);
    return std::nullopt;
  };
  if (step_ >= total_steps_) return ended(TrainResult::End::kDone);
  if (options_.patience > 0 && evaluations_without_best_ >= options_.patience) {
    return ended(TrainResult::End::kEarlyStop);
  }
  const int64_t epoch = cursor_.epoch;
  std::optional<StepReport> report = Step(callbacks.stop);
  if (!report) return ended(TrainResult::End::kInterrupted);
  report->heads_right = HeadsRight();
  if (log_) log_->Add(*report);
  if (callbacks.on_step) callbacks.on_step(*report);
  if (EvaluateNow(epoch)) {
    Validate(*report);
    if (callbacks.on_valid) callbacks.on_valid(step_, *report->valid_loss, report->best);
  }
  if (options_.save_every > 0 && step_ % options_.save_every == 0) Save();
  return report;
}

TrainResult Trainer::Run(const Callbacks& callbacks) {
  while (Next(callbacks)) {
  }
  return result_;
}

}  // namespace cambium
