#include <fmt/format.h>

#include <atomic>
#include <csignal>
#include <iostream>

#include "cli/progress.h"
#include "cli/train_flags.h"
#include "cli/verbs.h"
#include "cli/word_wrap.h"
#include "io/atomic_file.h"
#include "scale/launch.h"

namespace cambium::cli {
namespace {

std::atomic<Training*> running = nullptr;
static_assert(std::atomic<Training*>::is_always_lock_free);

// The first Ctrl-C ends the run with a checkpoint, the second one at once. mpirun and Slurm send SIGTERM, and
// SIGUSR1 where they are asked to.
void Interrupt(int signal) {
  if (Training* const training = running) training->Stop();
  std::signal(signal, SIG_DFL);
}

std::string Clock(double seconds) {
  const int64_t s = static_cast<int64_t>(seconds);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

// A bar with loss, rate, time left and loss scale, redrawn at each step; a line now and then where stderr is a file.
class TrainProgress {
 public:
  TrainProgress(const OutputFlags& flags, int64_t steps) : flags_(flags), steps_(steps) {}
  ~TrainProgress() { Clear(); }
  void Step(const StepReport& m, const std::string& more) {
    if (flags_.quiet) return;
    rate_ = rate_ == 0 ? m.tokens_per_s : 0.9 * rate_ + 0.1 * m.tokens_per_s;
    seconds_ = static_cast<double>(m.tokens) / rate_;
    std::string text = fmt::format("step {}/{}  loss {:.4f}  {:.0f} tokens/s  {} left", m.step, steps_, m.loss, rate_,
                                   Clock(seconds_ * static_cast<double>(steps_ - m.step)));
    if (m.heads_loss) text += fmt::format("  heads {:.4f}", *m.heads_loss);
    if (m.loss_scale != 1) text += fmt::format("  scale {:g}", m.loss_scale);
    text += more;
    if (m.skipped) text += "  overflow: step skipped";
    if (IsTerminal(stderr)) {
      const int columns = TerminalColumns(fileno(stderr));
      const int64_t width = columns > 0 && columns < 100 ? 8 : 24, full = width * m.step / steps_;
      const auto times = [](int64_t count, char c) { return std::string(static_cast<size_t>(count), c); };
      std::cerr << OneLine("\r\033[K[" + times(full, '#') + times(width - full, '.') + "] " + text) << std::flush;
      drawn_ = true;
    } else if (m.skipped || m.step == 1 || m.step == steps_ || m.step % 10 == 0) {
      std::cerr << text << '\n';
    }
  }
  void Line(const std::string& text) {
    Clear();
    Note(flags_, text);
  }

 private:
  void Clear() {
    if (drawn_) std::cerr << "\r\033[K" << std::flush;
    drawn_ = false;
  }
  const OutputFlags& flags_;
  int64_t steps_;
  double rate_ = 0, seconds_ = 0;
  bool drawn_ = false;
};

// "  right first/in 5: 62/81 40/63 ...": by depth, in percent.
std::string ShortAccuracy(const StepReport& step) {
  std::string text;
  for (const auto& [first, five] : step.heads_right) {
    text += fmt::format("{}{:.0f}/{:.0f}", text.empty() ? "  right first/in 5: " : " ", 100 * first, 100 * five);
  }
  return text;
}

TrainResult RunToEnd(Training& training, TrainProgress& progress) {
  running = &training;
  const struct Handlers {
    using Handler = void (*)(int);
    const Handler on_int = std::signal(SIGINT, Interrupt), on_term = std::signal(SIGTERM, Interrupt),
                  on_usr1 = std::signal(SIGUSR1, Interrupt);
    ~Handlers() {
      std::signal(SIGINT, on_int);
      std::signal(SIGTERM, on_term);
      std::signal(SIGUSR1, on_usr1);
      running = nullptr;
    }
  } handlers;
  while (const std::optional<StepReport> step = training.Step()) {
    progress.Step(*step, ShortAccuracy(*step));
    if (!step->valid_loss) continue;
    progress.Line(fmt::format("step {}: validation loss {:.4f}{}", step->step, *step->valid_loss,
                              step->best ? ", the best so far" : ""));
  }
  return training.result();
}

// The options as a file, with the values that were chosen where none were given.
std::string WithChosen(std::string config, const TrainConfig& chosen) {
  const auto set = [&](const std::string& key, const std::string& value) {
    const size_t at = config.starts_with(key + "=") ? 0 : config.find("\n" + key + "=");
    const size_t begin = at == 0 ? 0 : at + 1;
    if (at != config.npos) config.erase(begin, config.find('\n', begin) - begin + 1);
    config += key + "=" + value + "\n";
  };
  if (!config.ends_with('\n')) config += '\n';
  set("lr", fmt::format("{}", *chosen.lr));
  set("epochs", fmt::format("{}", *chosen.epochs));
  return config;
}

// Where an interrupted run stands, and how it goes on.
[[noreturn]] void EndInterrupted(const TrainConfig& stage, const TrainResult& result) {
  std::string weights;
  if (stage.graft != "full") {
    weights = "; as a graft it is " + stage.output + "/checkpoints/step-" + std::to_string(result.steps);
    if (result.best_loss)
      weights += ", the best so far " + stage.output + "/best/step-" + std::to_string(result.best_step);
  }
  Fail(ErrorCode::kInterrupted, "interrupted after step ", result.steps, "; the checkpoint is saved, `cambium train ",
       "--resume auto -o ", Word(stage.output), "` goes on", weights);
}

// What to try with what was trained.
void NextOf(const TrainFlags& flags, const TrainConfig& stage, const Training& training, const Model& model) {
  const std::string chat = Chats(model) ? " --chat" : "";
  const std::string bundle = stage.bundle.empty() ? stage.output : stage.bundle;
  if (training.kind() == "full") return Next(flags.output, "cambium generate " + Word(bundle) + chat + " -p TEXT");
  std::string draft;
  if (training.kind() == "medusa" || training.kind() == "mtp" || training.kind() == "exit")
    draft = " --draft " + training.kind();
  Next(flags.output, "cambium generate " + Word(flags.model) + " --graft " + Word(bundle) + draft + chat + " -p TEXT");
}

void Train(TrainFlags& flags, const TrainConfig& stage, const std::string& config) {
  if (stage.output.empty()) Fail(ErrorCode::kUsage, "-o is required: the directory for what is trained");
  const Model model = LoadToTrain(flags, stage);
  Training training(model, stage, [&](const std::string& line) { Note(flags.output, line); });
  const int64_t predicted = PrintPlan(training, flags.output);
  if (IsFirst(JoinRanks(stage.dist_timeout))) {
    AtomicFile file(stage.output + "/train.toml");
    file.Write(WithChosen(config, training.config()));
    file.Commit();
  }

  TrainProgress progress(flags.output, training.total_steps());
  const TrainResult result = RunToEnd(training, progress);
  if (stage.numerics_report) {
    for (const std::string& line : training.WriteNumerics()) progress.Line(line);
  }
  if (result.end == TrainResult::End::kInterrupted) {
    EndInterrupted(stage, result);
  }
  training.Save();
  if (result.end == TrainResult::End::kEarlyStop) progress.Line("stopped early: validation no longer improves");
  std::string kept;
  if (result.best_loss) {
    kept = fmt::format("; kept step {} with validation loss {:.4f}", result.best_step, *result.best_loss);
  }
  progress.Line(fmt::format("loss {:.4f} after {} steps{}; peak memory {} MiB (predicted {})", result.loss,
                            result.steps, kept, PeakResidentBytes() >> 20, predicted >> 20));
  for (const std::string& line : training.ReportHeads()) progress.Line(line);
  progress.Line(fmt::format("{}: the {}, metrics.jsonl and loss.svg", stage.output,
                            training.kind() == "full" ? "model" : "adapter"));
  NextOf(flags, stage, training, model);
}

}  // namespace

void AddTrain(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("train", "Train an adapter onto a model, or the whole model");
  const auto flags = std::make_shared<TrainFlags>();
  AddTrainOptions(*verb, *flags);
  verb->callback([flags, verb] {
    if (ApplyConfig(*verb, *flags)) return;
    flags->train.Check();
    for (const TrainConfig& stage : flags->train.Stages()) Train(*flags, stage, verb->config_to_str(true, false));
  });
}

}  // namespace cambium::cli
