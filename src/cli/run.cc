#include <iostream>
#include <memory>
#include <optional>
#include <sstream>

#include "cli/chat_settings.h"
#include "cli/draft_view.h"
#include "cli/line_editor.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "cli/word_wrap.h"
#include "io/atomic_file.h"

namespace cambium::cli {
namespace {

struct Flags {
  OutputFlags output;
  ModelFlags model;
  AnswerFlags answer;
  std::string system;
};

constexpr std::string_view kHelp =
    "/help                this list\n"
    "/reset               forget the conversation\n"
    "/set                 every option with the value that holds; /set NAME shows one\n"
    "/set NAME VALUE      change an option of `generate`, by its long name: /set temp 0.2, /set graft my-lora;\n"
    "                     or `system`, what the model is told first\n"
    "/add NAME VALUE      one more value of an option that may have several: /add stop END\n"
    "/unset NAME          give an option its default again\n"
    "/save FILE           write the conversation as one JSON line, as `eval --jsonl` reads it\n"
    "/exit                leave (also Ctrl-D); Ctrl-C stops an answer\n"
    "Alt-Enter begins a new line; \"\"\" begins a text of several lines, up to the next \"\"\"; a paste is one "
    "message.";

constexpr std::string_view kQuotes = "\"\"\"";

// Where messages come from: a terminal with an editor, else lines of standard input.
class Messages {
 public:
  explicit Messages(bool interactive) {
    if (interactive) editor_.emplace();
  }

  // Nothing at the end. Text between """ is one message; an end before the second """ is its end too.
  std::optional<std::string> Next() {
    std::string text;
    while (!ReadLine("> ", text)) {
      if (ended_) return std::nullopt;
    }
    const size_t first = text.find_first_not_of(" \t");
    if (first == text.npos || text.compare(first, kQuotes.size(), kQuotes) != 0) return text;
    text.erase(0, first + kQuotes.size());
    std::string line;
    for (bool more = true; more;) {
      while (!text.empty() && (text.back() == ' ' || text.back() == '\r')) text.pop_back();
      if (text.ends_with(kQuotes)) break;
      more = ReadLine("... ", line);
      if (!more && !ended_) return "";  // Ctrl-C: nothing is said
      if (more) text += (text.empty() ? "" : "\n") + line;
    }
    if (text.ends_with(kQuotes)) text.resize(text.size() - kQuotes.size());
    if (text.ends_with('\n')) text.pop_back();
    return text;
  }

 private:
  // False: Ctrl-C, or the end, which ended_ says.
  bool ReadLine(const std::string& prompt, std::string& line) {
    if (!editor_) {
      ended_ = !std::getline(std::cin, line);
      return !ended_;
    }
    const LineEditor::Outcome outcome = editor_->Read(prompt, line);
    ended_ = outcome == LineEditor::Outcome::kEnd;
    return outcome == LineEditor::Outcome::kLine;
  }

  std::optional<LineEditor> editor_;
  bool ended_ = false;
};

class Chat {
 public:
  Chat(const Flags& flags, const CLI::App& verb)
      : flags_(flags), settings_(verb), interactive_(IsTerminal(stdin)), engine_(LoadModel(flags.model, flags.output)) {
    Reset();
  }

  void Loop() {
    if (interactive_) Note(flags_.output, engine_.model().info().Describe() + "; /help lists the commands");
    CatchInterrupt(false);
    Messages messages(interactive_);
    while (const std::optional<std::string> text = messages.Next()) {
      const size_t first = text->find_first_not_of(" \t\r\n");
      if (first == std::string::npos) continue;
      try {
        if ((*text)[first] == '/') {
          if (!Command(text->substr(first))) return;
        } else {
          Answer(*text);
        }
      } catch (const Error& error) {
        if (!interactive_) throw;
        std::cerr << "error: " << error.what() << '\n';
      }
    }
  }

 private:
  void Reset() {
    messages_.clear();
    left_out_ = 0;
    if (!flags_.system.empty()) messages_.push_back({"system", flags_.system});
  }

  // False: leave.
  bool Command(const std::string& line) {
    std::istringstream words(line);
    std::string name, rest;
    words >> name;
    std::getline(words >> std::ws, rest, '\0');
    while (!rest.empty() && (rest.back() == '\n' || rest.back() == '\r')) rest.pop_back();
    if (name == "/exit" || name == "/quit" || name == "/bye") return false;
    if (name == "/help") {
      Note({}, kHelp);
    } else if (name == "/reset") {
      Reset();
    } else if (name == "/set" || name == "/add") {
      Set(name, rest);
    } else if (name == "/unset") {
      Unset(rest);
    } else if (name == "/save") {
      Save(rest);
    } else {
      Fail(ErrorCode::kUsage, "unknown command ", name, "; /help lists the commands, and a message that begins with / ",
           "stands between \"\"\"");
    }
    return true;
  }

  void Set(const std::string& command, const std::string& rest) {
    if (rest.empty()) return Note({}, settings_.List() + "  " + ShowSystem());
    const size_t space = rest.find(' ');
    const std::string name = rest.substr(0, space);
    const bool shows = space == rest.npos;
    const std::string value = shows ? "" : rest.substr(rest.find_first_not_of(' ', space));
    if (name == "system" || name == "system-prompt") {
      if (!shows) Tell(value);
      return Note({}, ShowSystem());
    }
    // A flag alone is set; anything else alone is shown.
    const std::string before = settings_.Show(name);
    const bool flag = before.ends_with("= true") || before.ends_with("= false") ||
                      before.ends_with("= true (the default)") || before.ends_with("= false (the default)");
    if (!shows || (flag && command == "/set" && name.starts_with("no-"))) {
      Keep(settings_.With(name, value, command == "/add"));
    }
    Note({}, settings_.Show(name));
  }

  void Unset(const std::string& name) {
    if (name.empty()) Fail(ErrorCode::kUsage, "/unset wants the name of an option");
    if (name == "system" || name == "system-prompt") {
      Tell("");
      return Note({}, ShowSystem());
    }
    Keep(settings_.Without(name));
    Note({}, settings_.Show(name));
  }

  std::string ShowSystem() const { return flags_.system.empty() ? "system is not set" : "system = " + flags_.system; }

  // What the model is told first, from the next answer on.
  void Tell(const std::string& system) {
    CheckUtf8(system, "the system prompt");
    if (!flags_.system.empty()) messages_.erase(messages_.begin());
    flags_.system = system;
    if (!system.empty()) messages_.insert(messages_.begin(), {"system", system});
  }

  // Takes the settings where the engine does: grafts, drafters and schemas are tried on a text of one word.
  void Keep(ChatSettings settings) {
    const Message probe{"user", "Hello"};
    Request request = RequestFor({probe}, settings.flags());
    request.max_tokens = 1;
    request.min_tokens = 0;
    engine_.Generate(std::move(request));
    settings_ = std::move(settings);
  }

  void Save(const std::string& path) {
    if (path.empty()) Fail(ErrorCode::kUsage, "/save wants a file name");
    auto messages = nlohmann::ordered_json::array();
    for (const Message& message : messages_) messages.push_back({{"role", message.role}, {"content", message.content}});
    AtomicFile file(path);
    file.Write(nlohmann::ordered_json{{"messages", messages}}.dump() + "\n");
    file.Commit();
  }

  Request RequestFor(const std::vector<Message>& messages, const AnswerFlags& answer) {
    Request request = CheckedRequest(answer.generate);
    ChatOptions options;
    options.tools = ToolsOf(answer.tools);
    request.prompt = engine_.model().TokenizeChat(messages, options);
    request.adapters = adapters_.Load(engine_.model(), answer.generate.grafts);
    request.constraint = ConstraintOf(answer.constraint, engine_.model());
    return request;
  }

  // The request for the conversation, without its oldest turns where they leave no room for an answer.
  Request NextRequest() {
    constexpr int64_t kRoom = 256;  // tokens of the context that an answer wants
    const size_t system = flags_.system.empty() ? 0 : 1, before = left_out_;
    const int64_t room = std::min(kRoom, engine_.context() / 4);
    for (;;) {
      std::vector<Message> shown(messages_.begin(), messages_.begin() + static_cast<int64_t>(system));
      shown.insert(shown.end(), messages_.begin() + static_cast<int64_t>(system + left_out_), messages_.end());
      Request request = RequestFor(shown, settings_.flags());
      const bool fits = std::ssize(request.prompt) + room <= engine_.context();
      if (fits || shown.size() <= system + 1) {
        if (left_out_ > before) {
          std::cerr << "the context of " << engine_.context() << " tokens is full: the model no longer sees the oldest "
                    << left_out_ << " messages; -c N holds more, /reset begins anew\n";
        }
        return request;
      }
      left_out_ += 2;  // a question and its answer
    }
  }

  void Answer(const std::string& question) {
    CheckUtf8(question, "the message");
    messages_.push_back({"user", question});
    const size_t left_out = left_out_;
    Generation result;
    try {
      result = Generate(NextRequest());
    } catch (...) {
      messages_.pop_back();
      left_out_ = left_out;
      throw;
    }
    messages_.push_back({"assistant", result.text});
    if (flags_.output.json) WriteJson(ToJson(result));
    NoteEnd(flags_.output, result, engine_.context());
  }

  // Streams it, unless it is shown whole.
  Generation Generate(Request request) {
    const bool whole = flags_.output.json, view = settings_.flags().show_draft;
    WordWrap wrap(IsTerminal(stdout) ? TerminalColumns(fileno(stdout)) : 0);
    const bool plain = !IsTerminal(stdout);
    std::optional<LineEditor::Hold> hold;
    if (interactive_) hold.emplace();
    ClearInterrupt();
    CatchInterrupt(true);
    const struct Restore {
      ~Restore() { CatchInterrupt(false); }
    } restore;
    Generation result = engine_.Generate(std::move(request), [&](const Event& event) {
      if (!whole && !view) Write(plain ? std::string(event.text) : wrap.Push(event.text));
      if (Interrupted()) engine_.Cancel(event.request);
    });
    if (whole) return result;
    if (view) Write(DraftView(engine_.model(), result, UseColor(stdout)));
    Write(wrap.Finish() + "\n");
    if (view) Note(flags_.output, DraftLegend(result, UseColor(stderr)));
    return result;
  }

  Flags flags_;
  ChatSettings settings_;
  bool interactive_;
  Engine engine_;
  Adapters adapters_;
  std::vector<Message> messages_;
  size_t left_out_ = 0;  // of the oldest, behind the system prompt, that the model is not shown
};

}  // namespace

void AddRun(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("run", "Chat with a model; /help lists the commands");
  const auto flags = std::make_shared<Flags>();
  AddModel(*verb, flags->model);
  verb->add_option("--system-prompt,--system", flags->system, "What the model is told first");
  AddAnswerOptions(*verb, flags->answer);
  AddOutput(*verb, flags->output);
  verb->callback([flags, verb] { Chat(*flags, *verb).Loop(); });
}

}  // namespace cambium::cli
