#include <memory>

#include "base/parallel.h"
#include "cli/options.h"
#include "cli/verbs.h"

namespace cambium::cli {

void AddVersion(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("version", "Print the version");
  const auto output = std::make_shared<OutputFlags>();
  AddOutput(*verb, *output);
  verb->callback([output] {
    if (output->json) {
      WriteJson({{"version", CAMBIUM_VERSION}, {"compiler", "g++ " __VERSION__}, {"threads", DefaultThreads()}});
    } else {
      Write("cambium " CAMBIUM_VERSION "\n");
    }
  });
}

}  // namespace cambium::cli
