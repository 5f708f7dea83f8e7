#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <mutex>
#include <thread>

#include "handles.h"

namespace cambium::python {
namespace {

using Free = nb::call_guard<nb::gil_scoped_release>;
using NativeTraining = Owned<Training>;

// Runs `work` without the GIL on a thread of its own while this one looks after Python's signals. When a handler raises
// (KeyboardInterrupt), `stop` is called, the end of the work is waited for, and what was raised goes on.
void Interruptibly(const std::function<void()>& work, const std::function<void()>& stop) {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  std::exception_ptr error;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread worker([&] {
    try {
      work();
    } catch (...) {
      error = std::current_exception();
    }
    const std::lock_guard lock(mutex);
    done = true;
    changed.notify_one();
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  std::optional<nb::python_error> raised;
  const auto finished = [&] {
    const nb::gil_scoped_release free;
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::milliseconds(kSignalsMs), [&] { return done; });
  };
  while (!finished()) {
    if (raised || PyErr_CheckSignals() == 0) continue;
    raised.emplace();
    stop();
  }
  worker.join();
  if (raised) throw std::move(*raised);
  if (error) std::rethrow_exception(error);
}

// stage: which of the runs that the config stands for; -1: it stands for one.
TrainConfig StageOf(const std::string& json, int stage) {
  const TrainConfig config = TrainConfig::FromJson(json);
  if (stage < 0) return config;
  config.Check();
  return config.Stages().at(static_cast<size_t>(stage));
}

NativeTraining Make(const NativeModel& model, const std::string& json, int stage, const nb::object& lines) {
  std::optional<Training> made;
  const TrainConfig config = StageOf(json, stage);
  const Training::Lines tell = [&](const std::string& line) {
    const nb::gil_scoped_acquire gil;
    if (!lines.is_none()) lines(line);
  };
  Model& on = model.get();
  Interruptibly([&] { made.emplace(on, config, tell); }, [] {});
  return NativeTraining(std::make_unique<Training>(std::move(*made)));
}

std::optional<StepReport> Step(NativeTraining& owned) {
  Training& training = owned.get();
  std::optional<StepReport> report;
  Interruptibly([&] { report = training.Step(); }, [&] { training.Stop(); });
  return report;
}

nb::dict PlanOf(NativeTraining& owned) {
  Training& training = owned.get();
  TrainPlan plan;
  Interruptibly([&] { plan = training.Plan(); }, [] {});
  nb::dict d;
  d["parameters"] = plan.parameters;
  d["steps"] = plan.steps;
  d["tokens"] = plan.rows;
  d["peak_bytes"] = plan.peak_bytes;
  d["tokens_per_s"] = plan.tokens_per_s;
  d["seconds"] = plan.seconds;
  return d;
}

nb::dict DataOf(const NativeTraining& training) {
  const DatasetReport& r = training->data();
  nb::dict d;
  d["examples"] = r.examples;
  d["tokens"] = r.tokens;
  d["trained_tokens"] = r.trained_tokens;
  d["truncated_examples"] = r.truncated_examples;
  d["truncated_tokens"] = r.truncated_tokens;
  d["without_targets"] = r.without_targets;
  d["skipped"] = r.skipped;
  d["stop_token_trained"] = r.stop_token_trained();
  return d;
}

nb::dict ResultOf(const NativeTraining& training) {
  static constexpr const char* kEnds[] = {"done", "early_stop", "interrupted"};
  const TrainResult& r = training->result();
  nb::dict d;
  d["end"] = kEnds[static_cast<size_t>(r.end)];
  d["steps"] = r.steps;
  d["loss"] = r.loss;
  d["best_loss"] = r.best_loss;
  d["best_step"] = r.best_step;
  return d;
}

}  // namespace

void BindTrain(nb::module_& m) {
  nb::class_<StepReport>(m, "StepReport", "What one step of training, and the validation behind it, measured.")
      .def_ro("step", &StepReport::step, "From 1.")
      .def_ro("loss", &StepReport::loss, "Mean over the step's trained tokens, before the update.")
      .def_ro("heads_loss", &StepReport::heads_loss)
      .def_ro("grad_norm", &StepReport::grad_norm)
      .def_ro("lr", &StepReport::lr)
      .def_ro("tokens", &StepReport::tokens)
      .def_ro("tokens_per_s", &StepReport::tokens_per_s)
      .def_ro("loss_scale", &StepReport::loss_scale)
      .def_ro("skipped", &StepReport::skipped, "Whether fp16 overflowed, and nothing was changed.")
      .def_ro("heads_right", &StepReport::heads_right)
      .def_ro("valid_loss", &StepReport::valid_loss, "None where no validation was due.")
      .def_ro("best", &StepReport::best);
  nb::class_<NativeTraining>(m, "Training")
      .def_static("make", &Make, nb::arg("model"), nb::arg("config"), nb::arg("stage"), nb::arg("lines").none())
      .def_prop_ro("config", [](const NativeTraining& t) { return t->config().ToJson(); })
      .def_prop_ro("kind", [](const NativeTraining& t) { return t->kind(); })
      .def_prop_ro("position", [](const NativeTraining& t) { return t->step(); })
      .def_prop_ro("total_steps", [](const NativeTraining& t) { return t->total_steps(); })
      .def_prop_ro("valid_examples", [](const NativeTraining& t) { return t->valid_examples(); })
      .def_prop_ro("data", &DataOf)
      .def_prop_ro("result", &ResultOf)
      .def(
          "preview", [](const NativeTraining& t, bool color) { return t->Preview(color); }, nb::arg("color") = false)
      .def("plan", &PlanOf)
      .def("step", &Step)
      .def("stop", [](NativeTraining& t) { t->Stop(); })
      .def(
          "evaluate", [](NativeTraining& t) { return t->Evaluate(); }, Free())
      .def(
          "save", [](NativeTraining& t, const std::string& directory) { t->Save(directory); },
          nb::arg("directory") = "", Free())
      .def(
          "adapter", [](NativeTraining& t) { return t->adapter(); }, Free())
      .def(
          "report_heads", [](NativeTraining& t) { return t->ReportHeads(); }, Free())
      .def("close", &NativeTraining::Close, Free())
      .def_prop_ro("closed", &NativeTraining::closed);
  m.def("count_stages", [](const std::string& json) {
    const TrainConfig config = TrainConfig::FromJson(json);
    config.Check();
    return config.Stages().size();
  });
  m.def("config_from_toml", [](const std::string& path) { return TrainConfig::FromToml(path).ToJson(); });
}

}  // namespace cambium::python
