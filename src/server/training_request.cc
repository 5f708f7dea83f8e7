#include "server/training_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "grafts/grafts.h"

namespace cambium::server {
namespace {

// Fields that become an option of the same name, "batch_size" --batch-size.
struct NumberOption {
  const char* field;
  bool whole;
  double low, high;
};
constexpr NumberOption kNumbers[] = {
    {"steps", true, 0, 1e9},        {"epochs", false, 1e-3, 1e4},   {"rank", true, 1, 4096},
    {"alpha", false, 1e-6, 1e6},    {"dropout", false, 0, 0.95},    {"length", true, 1, 65536},
    {"heads", true, 1, 16},         {"batch_size", true, 1, 65536}, {"seq_len", true, 2, 1 << 20},
    {"accumulate", true, 1, 65536}, {"valid_split", false, 0, 0.9}, {"warmup", true, 0, 1e9},
    {"weight_decay", false, 0, 10}, {"clip", false, 0, 1e6},        {"seed", true, 0, 9e15},
    {"eval_every", true, 0, 1e9},   {"patience", true, 0, 1e6},     {"save_every", true, 0, 1e9},
};
constexpr const char* kSwitches[] = {
    "pack", "dora", "rslora", "raw", "train_on_prompt", "skip_bad", "adam_8bit", "yes", "checkpoint_activations"};
struct ChoiceOption {
  const char* field;
  std::initializer_list<const char*> values;
};
const ChoiceOption kChoices[] = {
    {"schedule", {"cosine", "linear", "constant"}},
    {"precision", {"bf16", "fp16", "fp32"}},
    {"format", {"auto", "chat", "completions", "text", "alpaca", "sharegpt", "ids", "plain"}},
};

std::string FlagOf(std::string_view field) {
  std::string flag = "--" + std::string(field);
  std::ranges::replace(flag, '_', '-');
  return flag;
}

void CheckKnown(const Fields& fields) {
  for (const auto& [key, value] : fields.object().items()) {
    const auto is = [&key = key](const auto& option) { return key == option.field; };
    const bool known = key == "name" || key == "graft" || key == "data" || key == "valid" || key == "lr" ||
                       std::ranges::any_of(kNumbers, is) || std::ranges::any_of(kChoices, is) ||
                       std::ranges::find(kSwitches, key) != std::end(kSwitches);
    if (!known) Refuse(fields.Name(key.substr(0, 60)), key.substr(0, 60) + " is not an option of training here");
  }
}

bool IsKind(const std::string& graft) {
  const std::string kinds = ", " + GraftKinds() + ", ";
  return graft != "full" && !graft.empty() && kinds.find(", " + graft + ", ") != kinds.npos;
}

}  // namespace

TrainingRequest ReadTrainingRequest(const Fields& fields) {
  CheckKnown(fields);
  TrainingRequest request;
  request.name = fields.Text("name").value_or("");
  request.graft = fields.Text("graft").value_or("lora");
  if (!IsKind(request.graft)) {
    Refuse("graft", Json(request.graft.substr(0, 40)), "one of " + GraftKinds() + ", but not full");
  }
  request.data = fields.Text("data").value_or("");
  request.valid = fields.Text("valid").value_or("");
  if (request.data.empty()) Refuse("data", "data is missing: the text of a file of examples");
  std::vector<std::string>& options = request.options;
  options = {"--graft", request.graft};
  const auto add = [&](const std::string& flag, const std::string& value) { options.push_back(flag + "=" + value); };
  if (const auto lr = fields.Number("lr", 0, 100)) {
    const bool heads = request.graft == "medusa" || request.graft == "mtp" || request.graft == "exit";
    add(heads ? "--heads-lr" : "--lr", fmt::format("{}", *lr));
  }
  for (const NumberOption& option : kNumbers) {
    if (option.whole) {
      const auto value =
          fields.Whole(option.field, static_cast<int64_t>(option.low), static_cast<int64_t>(option.high));
      if (value) add(FlagOf(option.field), fmt::format("{}", *value));
    } else if (const auto value = fields.Number(option.field, option.low, option.high)) {
      add(FlagOf(option.field), fmt::format("{}", *value));
    }
  }
  for (const ChoiceOption& option : kChoices) {
    const auto value = fields.Text(option.field);
    if (!value) continue;
    const bool known = std::ranges::any_of(option.values, [&](const char* one) { return *value == one; });
    if (!known) Refuse(option.field, Json(value->substr(0, 40)), "one of those that `cambium train --help` names");
    add(FlagOf(option.field), *value);
  }
  for (const char* const field : kSwitches) {
    if (fields.Bool(field).value_or(false)) options.push_back(FlagOf(field));
  }
  return request;
}

}  // namespace cambium::server
