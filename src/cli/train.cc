#include <atomic>
#include <csignal>
#include <iostream>

#include <fmt/format.h>

#include "cli/heads_report.h"
#include "cli/train_flags.h"
#include "cli/verbs.h"
#include "io/atomic_file.h"
#include "train/numerics.h"
#include "train/plan.h"

namespace cambium::cli {
namespace {

std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free);

// The first Ctrl-C ends the run with a checkpoint, the second one at once.
void Interrupt(int signal) {
  interrupted = true;
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
  void Step(const StepMetrics& m, const std::string& more) {
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
      constexpr int64_t kWidth = 24;
      const int64_t full = kWidth * m.step / steps_;
      std::cerr << "\r\033[K[" << std::string(static_cast<size_t>(full), '#')
                << std::string(static_cast<size_t>(kWidth - full), '.') << "] " << text << std::flush;
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

void Train(TrainFlags& flags, const std::string& config) {
  if (flags.directory.empty()) Fail(ErrorCode::kUsage, "-o is required: the directory for what is trained");
  TrainSession session(flags);
  Trainer& trainer = *session.trainer;
  const bool resuming = flags.resume == "auto";
  if (!resuming && !CheckpointStore(flags.directory + "/checkpoints", 2).Steps().empty()) {
    Fail(ErrorCode::kUsage, flags.directory, ": holds checkpoints of an earlier run; give --resume auto or another directory");
  }
  const int64_t predicted = PrintPlan(session, flags);
  std::vector<std::string> notes;
  if (resuming && trainer.Resume(notes)) Note(flags.output, fmt::format("resumed after step {}", trainer.step()));
  for (const std::string& note : notes) Note(flags.output, "damaged checkpoint passed over: " + note);
  AtomicFile file(flags.directory + "/train.toml");
  file.Write(config);
  file.Commit();

  const auto before = std::signal(SIGINT, Interrupt);
  TrainProgress progress(flags.output, trainer.total_steps());
  Trainer::Callbacks callbacks;
  callbacks.stop = &interrupted;
  std::optional<NumericsReport> numerics;
  if (flags.numerics) numerics.emplace(trainer, *session.model);
  callbacks.on_step = [&](const StepMetrics& m) {
    std::string accuracy;
    if (HeadsLoss* const heads = trainer.heads_loss(); heads != nullptr) {
      accuracy = "  right first/in 5: " + ShortAccuracy(heads->accuracy());
      if (m.step % 10 == 0) heads->accuracy() = HeadAccuracy(session.heads().depths());
    }
    progress.Step(m, accuracy);
    if (numerics) numerics->Step();
  };
  callbacks.on_valid = [&](int64_t step, double loss, bool best) {
    progress.Line(fmt::format("step {}: validation loss {:.4f}{}", step, loss, best ? ", the best so far" : ""));
  };
  const TrainResult result = trainer.Run(callbacks);
  std::signal(SIGINT, before);
  if (numerics) {
    for (const std::string& line : numerics->Write(flags.directory)) progress.Line(line);
  }
  if (result.end == TrainResult::End::kInterrupted) {
    Fail(ErrorCode::kInterrupted, "interrupted after step ", result.steps, "; the checkpoint is saved, --resume auto goes on");
  }
  {
    const Optimizer::UnroundedValues values(trainer.optimizer());
    session.graft->Save(flags.bundle.empty() ? flags.directory : flags.bundle);
    if (session.with_heads != nullptr) session.with_heads->Save(flags.directory);
    for (const auto& part : session.trunk) {
      if (flags.bundle.empty()) part->Save(flags.directory);
    }
  }
  if (result.end == TrainResult::End::kEarlyStop) progress.Line("stopped early: validation no longer improves");
  progress.Line(fmt::format("loss {:.4f} after {} steps{}; peak memory {} MiB (predicted {})", result.loss, result.steps,
                            result.best_loss ? fmt::format("; kept step {} with validation loss {:.4f}", result.best_step,
                                                           *result.best_loss)
                                             : "",
                            PeakResidentBytes() >> 20, predicted >> 20));
  if (trainer.heads_loss() != nullptr) ReportHeads(session, flags);
  progress.Line(fmt::format("{}: the {}, metrics.jsonl and loss.svg", flags.directory,
                            session.graft->kind() == "full" ? "model" : "adapter"));
}

// A fine-tune with heads for it, one bundle: heads after the fine-tune, beside it, or both in this order (--joint).
void TrainBundle(TrainFlags& flags, const std::string& config) {
  if (flags.beside()) PrepareBeside(flags);  // before a first stage
  if (flags.mtp_weight > 0) return Train(flags, config);
  TrainFlags heads = flags;
  heads.joint = false;
  if (!flags.with_heads.empty() && !flags.joint) flags.distill.clear();  // the answers are for the heads
  if (!flags.joint) Train(flags, config);
  if (flags.with_heads.empty()) return;
  heads.graft = flags.with_heads;
  heads.with_heads.clear();
  heads.init_from.clear();
  heads.bundle = flags.directory;
  if (!flags.joint) heads.with_graft = flags.directory;
  heads.directory = flags.directory + "/" + flags.with_heads;
  Train(heads, config);
  if (flags.joint) Train(flags, config);
}

}  // namespace

void AddTrain(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("train", "Train an adapter onto a model, or the whole model");
  const auto flags = std::make_shared<TrainFlags>();
  AddTrainOptions(*verb, *flags);
  verb->callback([flags, verb] {
    if (ApplyConfig(*verb, *flags)) return;
    TrainBundle(*flags, verb->config_to_str(true, false));
  });
}

}  // namespace cambium::cli
