#include <memory>

#include "cli/constraint_flags.h"
#include "cli/generate_records.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "io/json.h"

namespace cambium::cli {
namespace {

struct Flags {
  OutputFlags output;
  ModelFlags model;
  InputFlags input;
  GenerateFlags generate;
  ConstraintFlags constraint;
  RecordFlags records;
  bool chat = false, show_draft = false;
  std::string tools;
};

// The tokens by where they came from: a colour a drafter, red where the target went against a draft; without colour,
// {name:drafted} and {!corrected}.
std::string DraftView(const Model& model, const Generation& result, bool color) {
  static constexpr int kColors[] = {32, 36, 35, 33, 34};
  std::string view;
  for (size_t i = 0; i < result.ids.size(); ++i) {
    const int16_t origin = result.origins[i];
    const std::string piece = model.Piece(result.ids[i]);
    if (origin == Generation::kPlain) {
      view += piece;
    } else if (color) {
      const int code = origin < 0 ? 31 : kColors[static_cast<size_t>(origin) % std::size(kColors)];
      view += "\x1b[" + std::to_string(code) + "m" + piece + "\x1b[0m";
    } else {
      view += "{" + (origin < 0 ? "!" : result.draft.drafters[static_cast<size_t>(origin)] + ":") + piece + "}";
    }
  }
  return view;
}

// The list in a file, as JSON.
std::string ToolsOf(const std::string& path) {
  const nlohmann::ordered_json tools = ParseOrderedJson(ReadTextFile(path), path);
  if (!tools.is_array() || tools.empty()) Fail(ErrorCode::kData, path, ": is no JSON list of tools");
  for (const auto& tool : tools) {
    if (!tool.is_object()) Fail(ErrorCode::kData, path, ": a tool is ", tool.dump(), ", expected an object");
  }
  return tools.dump();
}

void Generate(const Flags& flags) {
  if (!flags.tools.empty() && !flags.chat) {
    Fail(ErrorCode::kUsage, "--tools is for --chat; records have a field \"tools\"");
  }
  if (!flags.records.input.empty()) {
    if (flags.chat || flags.show_draft || flags.input.text_option->count() + flags.input.ids_option->count() > 0 ||
        !flags.input.file.empty() || !flags.input.dash.empty()) {
      Fail(ErrorCode::kUsage,
           "--jsonl takes its prompts from the file, not from -p, -f, -, --ids, --chat or --show-draft");
    }
    GenerateRecords(flags.records, flags.generate, flags.constraint, flags.model, flags.output);
    return;
  }
  Request request = CheckedRequest(flags.generate);
  Input input = ReadInput(flags.input);
  if (input.has_ids() && flags.chat) Fail(ErrorCode::kUsage, "--chat wraps a text; it cannot be used with --ids");
  // An editor's newline at the end of a file is no part of the prompt.
  if (flags.input.text_option->count() == 0 && input.text.size() > 1 && input.text.back() == '\n')
    input.text.pop_back();
  Engine engine = LoadModel(flags.model, flags.output);
  const Message message{"user", input.text};
  const Model& model = engine.model();
  ChatOptions chat;
  if (!flags.tools.empty()) chat.tools = ToolsOf(flags.tools);
  request.prompt = flags.chat ? model.TokenizeChat({&message, 1}, chat) : input.Ids(model);
  request.constraint = ConstraintOf(flags.constraint, model);
  request.adapters = Adapters().Load(model, flags.generate.grafts);
  const Generation result = engine.Generate(std::move(request), [&](const Event& event) {
    if (!flags.output.json && !flags.show_draft) Write(event.text);
  });
  if (flags.output.json) {
    WriteJson(ToJson(result));
  } else {
    if (flags.show_draft) Write(DraftView(model, result, UseColor(stdout)));
    Write("\n");
  }
  NoteTimings(flags.output, result.timings);
  NoteDraft(flags.output, result.draft, result.timings.decode_tokens);
}

}  // namespace

void AddGenerate(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("generate", "Continue a text");
  const auto flags = std::make_shared<Flags>();
  AddModel(*verb, flags->model);
  AddInput(*verb, flags->input);
  verb->add_flag("--chat", flags->chat, "Wrap the text as a user's message in the model's chat template");
  verb->add_option("--tools", flags->tools, "With --chat: a file with a JSON list of tools for the template");
  verb->add_flag("--show-draft", flags->show_draft, "Colour each token by who proposed it");
  AddGenerateOptions(*verb, flags->generate);
  AddConstraint(*verb, flags->constraint);
  AddRecords(*verb, flags->records);
  AddOutput(*verb, flags->output);
  verb->callback([flags] { Generate(*flags); });
}

}  // namespace cambium::cli
