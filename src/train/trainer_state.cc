// What a trainer writes to disk and reads back.
#include <cstring>
#include <map>

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
  for (const Optimizer::State& state : optimizer_->states()) {
    tensors.push_back({.name = state.name, .view = state.tensor});
    if (state.tensor) continue;
    // Its turn: what rank 0 says is the state that is wanted, and all send their parts.
    tensors.back().make = [ranks = options_.ranks, state] {
      std::string name = state.name;
      ranks->FromFirst(name);
      std::vector<uint8_t> whole;
      for (const std::string& part :
           ranks->GatherAtFirst({reinterpret_cast<const char*>(state.here.data()), state.here.size()})) {
        whole.insert(whole.end(), part.begin(), part.end());
      }
      return whole;
    };
  }
  return tensors;
}

void Trainer::ServeStates() const {
  std::map<std::string, std::span<uint8_t>> parts;
  for (const Optimizer::State& state : optimizer_->states()) parts[state.name] = state.here;
  for (std::string name;;) {
    options_.ranks->FromFirst(name);
    if (name.empty()) return;
    const std::span<uint8_t> part = parts.at(name);
    options_.ranks->GatherAtFirst({reinterpret_cast<const char*>(part.data()), part.size()});
  }
}

void Trainer::ReadTensors(const CheckpointStore::Loaded* loaded, bool best) {
  Ranks* const ranks = options_.ranks;
  for (const Optimizer::State& state : optimizer_->states()) {
    if (best && !state.name.starts_with("value.")) continue;
    const Tensor* const stored = loaded == nullptr ? nullptr : loaded->tensors->FindStored(state.name);
    if (loaded != nullptr && stored == nullptr) {
      Fail(ErrorCode::kData, loaded->tensors->path(), ": tensor ", state.name, " is missing");
    }
    if (stored != nullptr && (stored->bytes() != state.tensor.bytes() || stored->dtype != state.tensor.dtype)) {
      Fail(ErrorCode::kData, loaded->tensors->path(), ": tensor ", state.name, " has ", stored->size(),
           " values, expected ", state.tensor.size());
    }
    if (ranks == nullptr) {
      std::memcpy(state.tensor.data, stored->data, static_cast<size_t>(stored->bytes()));
      continue;
    }
    std::string whole;
    if (stored != nullptr) whole.assign(stored->as<char>(), static_cast<size_t>(stored->bytes()));
    ranks->FromFirst(whole);
    Check(static_cast<int64_t>(whole.size()) == state.tensor.bytes(), "ranks train the same parameters");
    std::memcpy(state.here.data(), whole.data() + state.at, state.here.size());
  }
  if (loaded != nullptr) loaded->tensors->CheckIntact();
}

void Trainer::Save() {
  if (directory_.empty()) return;
  // A checkpoint that cannot be gone on from must not push out one that can.
  if (const Parameter* const param = FirstNonFinite()) {
    Fail(ErrorCode::kRuntime, "step ", step_, ": parameter ", param->name, " is not finite; ", LastCheckpoint(),
         "; try a lower lr");
  }
  saved_step_ = step_;
  if (!store_) return ServeStates();
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
  std::string no_more;
  if (options_.ranks != nullptr) options_.ranks->FromFirst(no_more);
}

// As an adapter's files, so that a checkpoint is a graft too. A whole model's weights are not written twice.
void Trainer::SaveGrafts(const std::string& directory) {
  if (graft_.kind() == "full") return;
  const Optimizer::UnroundedValues values(*optimizer_);
  graft_.Save(directory);
  if (options_.with_heads != nullptr) options_.with_heads->Save(directory);
}

void Trainer::TakeState(const nlohmann::json& state) {
  step_ = state.at("step").get<int64_t>();
  cursor_ = {state.at("cursor").at("epoch").get<int64_t>(), state.at("cursor").at("position").get<int64_t>()};
  scaler_.Restore({state.at("scaler").at("scale").get<float>(), state.at("scaler").at("clean_steps").get<int>()});
  const nlohmann::json& best = state.at("best");
  if (!best.at("loss").is_null()) best_loss_ = best.at("loss").get<double>();
  best_step_ = best.at("step").get<int64_t>();
  evaluations_without_best_ = best.at("evaluations_without").get<int64_t>();
  last_loss_ = state.at("last_loss").get<double>();
  optimizer_->Restore(state.at("optimizer_steps").get<int64_t>());
}

bool Trainer::Resume(std::vector<std::string>& notes) {
  if (directory_.empty()) return false;
  const std::optional<CheckpointStore::Loaded> loaded = store_ ? store_->LoadNewest(notes) : std::nullopt;
  std::string state = loaded ? loaded->state.dump() : "";
  try {
    if (loaded) {
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
    }
    if (options_.ranks != nullptr) options_.ranks->FromFirst(state);
    if (state.empty()) return false;
    ReadTensors(loaded ? &*loaded : nullptr);
    TakeState(nlohmann::json::parse(state));
  } catch (const nlohmann::json::exception&) {
    Fail(ErrorCode::kData, loaded ? loaded->path : "", "/state.json: not the state of a training run");
  }
  Updated();
  saved_step_ = step_;
  if (store_) store_->RemoveNewerThan(step_);
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
  if (directory_.empty() || !best_loss_ || best_step_ == step_) return;
  std::optional<CheckpointStore::Loaded> best;
  if (store_) best = CheckpointStore::Load(directory_ + "/best/step-" + std::to_string(best_step_));
  ReadTensors(best ? &*best : nullptr, true);
  optimizer_->Restore(optimizer_->steps());
  Updated();
}

}  // namespace cambium
