#include "base/check_range.h"
#include "cli/train_flags.h"
#include "cli/verbs.h"

namespace cambium::cli {

void AddPlan(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("plan", "Say what a training run would cost, and stop before step 1");
  const auto flags = std::make_shared<TrainFlags>();
  const auto ranks = std::make_shared<int>(1);
  AddTrainOptions(*verb, *flags);
  verb->add_option("--np", *ranks, "Say what so many ranks would send each other (-np too, as mpirun has it)");
  verb->callback([flags, ranks, verb] {
    if (ApplyConfig(*verb, *flags)) return;
    CheckRange("--np", *ranks, 1, 1 << 16);
    flags->train.yes = true;  // nothing is trained
    flags->train.Check();
    flags->train.output = ".";
    const std::vector<TrainConfig> stages = flags->train.Stages();
    TrainConfig stage = flags->train.joint ? stages.back() : stages.front();
    stage.output.clear();  // nor written
    const Model model = LoadToTrain(*flags, stage);
    Training training(model, stage);
    PrintPlan(training, flags->output, *ranks);
  });
}

}  // namespace cambium::cli
