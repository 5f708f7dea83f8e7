#include "cli/train_flags.h"
#include "cli/verbs.h"

namespace cambium::cli {

void AddPlan(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("plan", "Say what a training run would cost, and stop before step 1");
  const auto flags = std::make_shared<TrainFlags>();
  AddTrainOptions(*verb, *flags);
  verb->callback([flags, verb] {
    if (ApplyConfig(*verb, *flags)) return;
    flags->yes = true;       // nothing is trained
    flags->directory = "";   // nor written
    TrainSession session(*flags);
    PrintPlan(session, *flags);
  });
}

}  // namespace cambium::cli
