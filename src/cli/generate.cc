#include <memory>

#include "cli/chat_settings.h"
#include "cli/draft_view.h"
#include "cli/generate_records.h"
#include "cli/options.h"
#include "cli/verbs.h"

namespace cambium::cli {
namespace {

struct Flags {
  OutputFlags output;
  ModelFlags model;
  InputFlags input;
  AnswerFlags answer;
  BeamFlags beams;
  const CLI::App* verb = nullptr;
  RecordFlags records;
  bool chat = false;
};

// A model that was made to answer continues a bare question with whatever comes.
void HintChat(const OutputFlags& output, const Model& model) {
  if (output.quiet || output.json || !IsTerminal(stderr) || !IsTerminal(stdout)) return;
  if (Chats(model)) Note(output, "this model answers questions: --chat asks it one, `cambium run` talks");
}

void Generate(const Flags& flags) {
  const BeamOptions beams = CheckedBeams(*flags.verb, flags.beams);
  if (beams.count > 1 && (!flags.records.input.empty() || flags.answer.show_draft)) {
    Fail(ErrorCode::kUsage, "--beams cannot be used with --jsonl or --show-draft");
  }
  if (!flags.answer.tools.empty() && !flags.chat) {
    Fail(ErrorCode::kUsage, "--tools is for --chat; records have a field \"tools\"");
  }
  if (!flags.records.input.empty()) {
    if (flags.chat || flags.answer.show_draft ||
        flags.input.text_option->count() + flags.input.ids_option->count() > 0 || !flags.input.file.empty() ||
        !flags.input.dash.empty()) {
      Fail(ErrorCode::kUsage,
           "--jsonl takes its prompts from the file, not from -p, -f, -, --ids, --chat or --show-draft");
    }
    GenerateRecords(flags.records, flags.answer.generate, flags.answer.constraint, flags.model, flags.output);
    return;
  }
  Request request = CheckedRequest(flags.answer.generate);
  request.beams = beams;
  Input input = ReadInput(flags.input);
  if (input.has_ids() && flags.chat) Fail(ErrorCode::kUsage, "--chat wraps a text; it cannot be used with --ids");
  // An editor's newline at the end of a file is no part of the prompt.
  if (flags.input.text_option->count() == 0 && input.text.size() > 1 && input.text.back() == '\n')
    input.text.pop_back();
  Engine engine = LoadModel(flags.model, flags.output, true);
  const Message message{"user", input.text};
  const Model& model = engine.model();
  ChatOptions chat;
  chat.tools = ToolsOf(flags.answer.tools);
  request.prompt = flags.chat ? model.TokenizeChat({&message, 1}, chat) : input.Ids(model);
  request.constraint = ConstraintOf(flags.answer.constraint, model);
  request.adapters = Adapters().Load(model, flags.answer.generate.grafts);
  const Generation result = engine.Generate(std::move(request), [&](const Event& event) {
    if (!flags.output.json && !flags.answer.show_draft) Write(event.text);
  });
  if (flags.output.json) {
    WriteJson(ToJson(result));
  } else {
    if (flags.answer.show_draft) Write(DraftView(model, result, UseColor(stdout)));
    Write("\n");
  }
  if (flags.answer.show_draft && !flags.output.json) Note(flags.output, DraftLegend(result, UseColor(stderr)));
  NoteEnd(flags.output, result, engine.context());
  if (!flags.chat && !input.has_ids()) HintChat(flags.output, model);
}

}  // namespace

void AddGenerate(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("generate", "Continue a text");
  const auto flags = std::make_shared<Flags>();
  AddModel(*verb, flags->model);
  AddInput(*verb, flags->input);
  verb->add_flag("--chat", flags->chat, "Wrap the text as a user's message in the model's chat template");
  AddAnswerOptions(*verb, flags->answer);
  AddBeams(*verb, flags->beams);
  flags->verb = verb;
  AddRecords(*verb, flags->records);
  AddOutput(*verb, flags->output);
  verb->callback([flags] { Generate(*flags); });
}

}  // namespace cambium::cli
