
#include <fmt/format.h>

#include <memory>

#include "cli/options.h"
#include "cli/verbs.h"

namespace cambium::cli {
namespace {

struct Flags {
  OutputFlags output;
  ModelFlags model;
  InputFlags input;
  std::string directory;
  bool yes = false;
};

void Compile(const Flags& flags) {
  const Input input = ReadInput(flags.input);
  RequireOverwrite(flags.directory, flags.yes);
  Engine engine = LoadModel(flags.model, flags.output);
  const std::vector<int32_t> ids = input.Ids(engine.model());
  engine.CompilePrefix(ids, flags.directory);
  if (flags.output.json) {
    WriteJson({{"path", flags.directory}, {"tokens", ids.size()}});
  } else {
    Note(flags.output, fmt::format("{}: {} tokens", flags.directory, ids.size()));
    Next(flags.output,
         "cambium generate " + Word(flags.model.model) + " --graft " + Word(flags.directory) + " -p TEXT");
  }
}

}  // namespace

void AddPrefix(CLI::App& app) {
  CLI::App* const verb =
      app.add_subcommand("prefix", "Compile a text into a prefix, which --graft puts before every text");
  const auto flags = std::make_shared<Flags>();
  AddModel(*verb, flags->model);
  AddInput(*verb, flags->input, "-p,--text");
  verb->add_option("-o,--output", flags->directory, "Directory for the prefix")->required();
  AddYes(*verb, flags->yes);
  AddOutput(*verb, flags->output);
  verb->callback([flags] { Compile(*flags); });
}

}  // namespace cambium::cli
