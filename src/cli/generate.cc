#include <memory>

#include "cli/options.h"
#include "cli/verbs.h"

namespace cambium::cli {
namespace {

struct Flags {
  OutputFlags output;
  ModelFlags model;
  InputFlags input;
  GenerateFlags generate;
  bool chat = false;
};

void Generate(const Flags& flags) {
  const GenerateOptions options = CheckedOptions(flags.generate);
  Input input = ReadInput(flags.input);
  if (input.has_ids() && flags.chat) Fail(ErrorCode::kUsage, "--chat wraps a text; it cannot be used with --ids");
  // An editor's newline at the end of a file is no part of the prompt.
  if (flags.input.text_option->count() == 0 && input.text.size() > 1 && input.text.back() == '\n')
    input.text.pop_back();
  Engine engine = LoadModel(flags.model, flags.output);
  const Message message{"user", input.text};
  const std::vector<int32_t> ids = flags.chat ? engine.TokenizeChat({&message, 1}) : input.Ids(engine);
  const Generation result = engine.Generate(ids, options, [&](std::string_view text) {
    if (!flags.output.json) Write(text);
    return true;
  });
  if (flags.output.json) {
    WriteJson(ToJson(result));
  } else {
    Write("\n");
  }
  NoteTimings(flags.output, result.timings);
}

}  // namespace

void AddGenerate(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("generate", "Continue a text");
  const auto flags = std::make_shared<Flags>();
  AddModel(*verb, flags->model);
  AddInput(*verb, flags->input);
  verb->add_flag("--chat", flags->chat, "Wrap the text as a user's message in the model's chat template");
  AddGenerateOptions(*verb, flags->generate);
  AddOutput(*verb, flags->output);
  verb->callback([flags] { Generate(*flags); });
}

}  // namespace cambium::cli
