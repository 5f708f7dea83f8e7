#include "cli/train_flags.h"

#include <fmt/format.h>

#include <filesystem>
#include <iostream>

#include "cambium/warning.h"
#include "cli/progress.h"
#include "engine/train_fields.h"
#include "scale/launch.h"

namespace cambium::cli {
namespace {

// Registers an option as its type wants it.
struct AddField {
  CLI::App& verb;
  void operator()(const std::string& flags, bool& value, const std::string& help) const {
    verb.add_flag(flags, value, help);
  }
  void operator()(const std::string& flags, std::vector<std::string>& value, const std::string& help) const {
    verb.add_option(flags, value, help)->delimiter(',');
  }
  template <class T>
  void operator()(const std::string& flags, T& value, const std::string& help, const Choices& choices = {}) const {
    CLI::Option* const option = verb.add_option(flags, value, help);
    if (!choices.empty()) option->check(CLI::IsMember(choices));
  }
};

}  // namespace

void AddTrainOptions(CLI::App& verb, TrainFlags& f) {
  verb.option_defaults()->always_capture_default();  // --print-config shows them
  verb.add_option("MODEL,-m,--model", f.model,
                  "A GGUF file, a Hugging Face directory, a cached name, or an alias (smollm2)");
  VisitDataFields(f.train, AddField{verb});
  verb.add_option("--config", f.config, "A TOML file with these options; flags win");
  verb.add_flag("--print-config", f.print_config, "Print the options as TOML and stop");
  VisitTrainFields(f.train, AddField{verb});
  verb.add_option("-t,--threads", f.threads, "Threads (0: every core that may be used)")->envname("CAMBIUM_THREADS");
  AddOutput(verb, f.output);
}

bool ApplyConfig(CLI::App& verb, TrainFlags& flags) {
  ApplyConfigFile(verb, flags.config);
  // A run that goes on needs its directory alone: what it was begun with is there.
  const std::string before = flags.train.output + "/train.toml";
  if (flags.train.resume == "auto" && !flags.train.output.empty() && flags.config.empty() &&
      std::filesystem::exists(before)) {
    const bool epochs_alone = verb.count("--epochs") > 0 && verb.count("--steps") == 0;
    ApplyConfigFile(verb, before);
    if (epochs_alone) flags.train.steps = 0;  // which would win over them
  }
  if (!flags.print_config) return false;
  flags.print_config = false;
  Write(verb.config_to_str(true, false));
  return true;
}

Model LoadToTrain(TrainFlags& flags, const TrainConfig& config) {
  CheckThreads(flags.threads);
  config.Check();
  if (flags.model.empty()) Fail(ErrorCode::kUsage, "MODEL is required");
  Ranks* const ranks = JoinRanks(config.dist_timeout);
  if (!IsFirst(ranks)) {
    flags.output.quiet = true;
    flags.output.json = false;
  }
  return Model::Load(flags.model, flags.threads == 0 ? ThreadsOfRank() : flags.threads);
}

int64_t PrintPlan(Training& training, const OutputFlags& output, int ranks) {
  const TrainPlan plan = training.Plan(ranks);
  const DatasetReport& r = training.data();
  const auto line = [&](const std::string& text) { Note(output, text); };
  line(fmt::format("training    {} parameters ({})", plan.parameters, training.kind()));
  line(fmt::format("data        {} examples, {} tokens, {} trained on", r.examples, r.tokens, r.trained_tokens));
  if (r.truncated_examples + r.without_targets + r.skipped > 0) {
    line(fmt::format("            {} examples cut ({} tokens lost), {} dropped without a trained token, {} bad lines{}",
                     r.truncated_examples, r.truncated_tokens, r.without_targets, r.skipped,
                     r.first_skipped.empty() ? "" : " (" + r.first_skipped + ")"));
  }
  if (training.valid_examples() > 0) line(fmt::format("validation  {} examples", training.valid_examples()));
  line(fmt::format("work        {} steps, {} tokens; about {:.0f} s at {:.0f} tokens/s", plan.steps, plan.rows,
                   plan.seconds, plan.tokens_per_s));
  const TrainConfig& config = training.config();
  const std::string length =
      config.steps > 0 ? "as many as asked for" : fmt::format("{:g} times through", *config.epochs);
  line(fmt::format("schedule    {}, learning rate {:g}, {}", length, *config.lr, config.schedule));
  if (plan.ranks > 1) {
    const auto at = [&](double gigabits) { return static_cast<double>(plan.bytes_sent) * 8 / (gigabits * 1e9); };
    line(fmt::format("network     {} ranks: each computes {} micro-batches a step, {:.2f} s, and sends {}: {:.2g} s at "
                     "1 Gbit/s, {:.2g} s at 10",
                     plan.ranks, plan.rounds, plan.step_seconds, HumanBytes(static_cast<uint64_t>(plan.bytes_sent)),
                     at(1), at(10)));
  }
  line(fmt::format("memory      about {} MiB at its peak", plan.peak_bytes >> 20));
  constexpr int64_t kFew = 50;  // docs/notes/training-defaults.md
  if (plan.steps < kFew && training.step() == 0) {
    Warn("only ", plan.steps, " steps, which teach little; --steps 100 are a hundred");
  }
  const bool stops = r.stop_token_trained();
  line(fmt::format("stop token  trained: {}", stops ? "yes" : "no"));
  if (!output.quiet) {
    std::cerr << "example (what is trained on is " << (UseColor(stderr) ? "green" : "in brackets") << "):\n"
              << training.Preview(UseColor(stderr)) << "\n";
  }
  if (output.json) {
    nlohmann::ordered_json preview = nlohmann::ordered_json::array();
    for (const PreviewPart& part : training.PreviewParts()) {
      preview.push_back({{"text", part.text}, {"trained", part.trained}});
    }
    nlohmann::ordered_json network;
    if (plan.ranks > 1) {
      network = {{"ranks", plan.ranks},
                 {"micro_batches", plan.rounds},
                 {"step_seconds", plan.step_seconds},
                 {"bytes_sent", plan.bytes_sent},
                 {"seconds_at_1gbit", static_cast<double>(plan.bytes_sent) * 8e-9}};
    }
    WriteJson({{"parameters", plan.parameters},
               {"examples", r.examples},
               {"tokens", r.tokens},
               {"trained_tokens", r.trained_tokens},
               {"truncated_examples", r.truncated_examples},
               {"skipped", r.skipped},
               {"steps", plan.steps},
               {"seconds", plan.seconds},
               {"tokens_per_s", plan.tokens_per_s},
               {"peak_bytes", plan.peak_bytes},
               {"stop_token_trained", stops},
               {"validation_examples", training.valid_examples()},
               {"network", std::move(network)},
               {"preview", std::move(preview)}});
  }
  training.RequireStopToken();
  return plan.peak_bytes;
}

}  // namespace cambium::cli
