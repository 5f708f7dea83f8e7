// What a trainer writes to disk and reads back.
#include <cstring>
#include <filesystem>

#include <fmt/format.h>

#include "cambium/error.h"
#include "train/dataset.h"
#include "train/trainer.h"

namespace cambium {
namespace {

constexpr int kStateVersion = 1;

// As people write it: 0.005, not the double nearest to the float nearest to that.
nlohmann::json Shortest(float value) { return nlohmann::json::parse(fmt::format("{}", value)); }

}  // namespace

nlohmann::json Trainer::MakeSettings() const {
  const OptimizerOptions& o = options_.optimizer;
  nlohmann::json settings = {{"version", kStateVersion},
          {"graft", graft_.kind()},
          {"parameters", optimizer_->parameters()},
          {"data", Fingerprint(train_)},
          {"validation data", Fingerprint(valid_)},
          {"batch-size", options_.batch.batch_size},
          {"pack rows", options_.batch.pack_rows},
          {"accumulate", options_.batch.accumulate},
          {"shuffle", options_.batch.shuffle},
          {"seed", options_.seed},
          {"precision", PrecisionName(options_.precision)},
          {"lr", Shortest(o.lr)},
          {"weight-decay", Shortest(o.weight_decay)},
          {"clip", Shortest(o.clip)},
          {"schedule", static_cast<int>(o.schedule)},
          {"warmup", o.warmup},
          {"8-bit moments", o.eight_bit},
          {"steps", total_steps_}};
  if (options_.with_heads != nullptr) {
    settings["heads"] = options_.with_heads->kind();
    settings["heads' weight"] = Shortest(options_.heads_weight);
    settings["heads' lr"] = Shortest(options_.heads_lr_scale);
  }
  if (heads_loss_ != nullptr) {
    settings["teacher"] = options_.heads.teacher;
    settings["feature weight"] = Shortest(options_.heads.feature_weight);
  }
  return settings;
}

std::vector<TensorToWrite> Trainer::Tensors() const {
  std::vector<TensorToWrite> tensors;
  for (const Optimizer::State& state : optimizer_->states())
    tensors.push_back({.name = state.name, .view = state.tensor});
  return tensors;
}

void Trainer::ReadTensors(const CheckpointStore::Loaded& loaded) {
  for (const Optimizer::State& state : optimizer_->states()) {
    const Tensor* const stored = loaded.tensors->FindStored(state.name);
    if (stored == nullptr || stored->bytes() != state.tensor.bytes() || stored->dtype != state.tensor.dtype) {
      Fail(ErrorCode::kData, loaded.tensors->path(), ": tensor ", state.name,
           stored == nullptr ? " is missing" : " has ", stored == nullptr ? 0 : stored->size(), " values, expected ",
           state.tensor.size());
    }
    std::memcpy(state.tensor.data, stored->data, static_cast<size_t>(stored->bytes()));
  }
  loaded.tensors->CheckIntact();
}

void Trainer::Save() {
  if (!store_) return;
  // A checkpoint that cannot be gone on from must not push out one that can.
  if (const Parameter* const param = FirstNonFinite()) {
    Fail(ErrorCode::kRuntime, "step ", step_, ": parameter ", param->name, " is not finite; ", LastCheckpoint(),
         "; try a lower lr");
  }
  const nlohmann::json state = {
      {"settings", settings_},
      {"step", step_},
      {"optimizer_steps", optimizer_->steps()},
      {"cursor", {{"epoch", cursor_.epoch}, {"position", cursor_.position}}},
      {"scaler", {{"scale", scaler_.state().scale}, {"clean_steps", scaler_.state().clean_steps}}},
      {"best",
       {{"loss", best_loss_ ? nlohmann::json(*best_loss_) : nlohmann::json()},
        {"step", best_step_},
        {"evaluations_without", evaluations_without_best_}}},
      {"last_loss", last_loss_}};
  store_->Save(step_, state, Tensors(), [this](const std::string& directory) { SaveGrafts(directory); });
}

// As an adapter's files, so that a checkpoint is a graft too. A whole model's weights are not written twice.
void Trainer::SaveGrafts(const std::string& directory) {
  if (graft_.kind() == "full") return;
  const Optimizer::UnroundedValues values(*optimizer_);
  graft_.Save(directory);
  if (options_.with_heads != nullptr) options_.with_heads->Save(directory);
}

bool Trainer::Resume(std::vector<std::string>& notes) {
  if (!store_) return false;
  const std::optional<CheckpointStore::Loaded> loaded = store_->LoadNewest(notes);
  if (!loaded) return false;
  try {
    const nlohmann::json& saved = loaded->state.at("settings");
    for (const auto& [name, value] : settings_.items()) {
      // Through text, as the saved value went: floats compare by their shortest form.
      const std::string before = saved.contains(name) ? saved[name].dump() : "absent";
      if (name == "steps" && saved.contains(name) && saved[name].get<int64_t>() < total_steps_) {
        lengthened_from_ = saved[name].get<int64_t>();
        continue;
      }
      if (before != nlohmann::json::parse(value.dump()).dump()) {
        Fail(ErrorCode::kUsage, loaded->path, ": cannot resume: ", name, " was ", before, ", now it is ", value.dump(),
             "; give the same settings or another output directory");
      }
    }
    ReadTensors(*loaded);
    const nlohmann::json& state = loaded->state;
    step_ = state.at("step").get<int64_t>();
    cursor_ = {state.at("cursor").at("epoch").get<int64_t>(), state.at("cursor").at("position").get<int64_t>()};
    scaler_.Restore({state.at("scaler").at("scale").get<float>(), state.at("scaler").at("clean_steps").get<int>()});
    const nlohmann::json& best = state.at("best");
    if (!best.at("loss").is_null()) best_loss_ = best.at("loss").get<double>();
    best_step_ = best.at("step").get<int64_t>();
    evaluations_without_best_ = best.at("evaluations_without").get<int64_t>();
    last_loss_ = state.at("last_loss").get<double>();
    optimizer_->Restore(state.at("optimizer_steps").get<int64_t>());
  } catch (const nlohmann::json::exception&) {
    Fail(ErrorCode::kData, loaded->path, "/state.json: not the state of a training run");
  }
  Updated();
  store_->RemoveNewerThan(step_);
  return true;
}

// The best weights are a checkpoint of their own, of values alone.
void Trainer::SaveBest() {
  if (!store_) return;
  std::vector<TensorToWrite> values;
  for (TensorToWrite& tensor : Tensors()) {
    if (tensor.name.starts_with("value.")) values.push_back(std::move(tensor));
  }
  CheckpointStore(directory_ + "/best", 2).Save(best_step_, {{"valid_loss", *best_loss_}}, std::move(values),
                                              [this](const std::string& directory) { SaveGrafts(directory); });
}

void Trainer::RestoreBest() {
  if (!store_ || !best_loss_ || best_step_ == step_) return;
  const CheckpointStore::Loaded best = CheckpointStore::Load(directory_ + "/best/step-" + std::to_string(best_step_));
  for (const Optimizer::State& state : optimizer_->states()) {
    const Tensor* const stored = best.tensors->FindStored(state.name);
    if (stored == nullptr) continue;
    if (stored->bytes() != state.tensor.bytes()) Fail(ErrorCode::kData, best.path, ": tensor ", state.name, " differs");
    std::memcpy(state.tensor.data, stored->data, static_cast<size_t>(stored->bytes()));
  }
  best.tensors->CheckIntact();
  optimizer_->Restore(optimizer_->steps());
  Updated();
}

}  // namespace cambium
