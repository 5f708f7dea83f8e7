#include <editline/readline.h>

#include <atomic>
#include <csignal>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>

#include "cli/options.h"
#include "cli/verbs.h"
#include "io/atomic_file.h"

namespace cambium::cli {
namespace {

struct Flags {
  OutputFlags output;
  ModelFlags model;
  GenerateFlags generate;
  std::string system;
};

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

// Ctrl-C stops the answer, not the program. With `flags` 0 it ends a read that waits; with SA_RESTART, for the time
// of an answer, a write goes on behind it.
void CatchInterrupt(int flags) {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted = true; };
  action.sa_flags = flags;
  sigaction(SIGINT, &action, nullptr);
}

constexpr std::string_view kHelp =
    "/help            this list\n"
    "/reset           forget the conversation\n"
    "/set KEY VALUE   change an option of generation: temp, top-k, top-p, min-p, repeat-penalty, predict, seed, stop;\n"
    "                 or `system`, the system prompt\n"
    "/save FILE       write the conversation as one JSON line, as `eval --jsonl` reads it\n"
    "/exit            leave (also Ctrl-D); Ctrl-C stops an answer";

class Chat {
 public:
  explicit Chat(const Flags& flags)
      : flags_(flags), interactive_(IsTerminal(stdin)), engine_(LoadModel(flags.model, flags.output)) {
    CheckedRequest(flags_.generate);
    Reset();
  }

  void Loop() {
    if (interactive_) Note(flags_.output, engine_.model().info().Describe() + "; /help lists the commands");
    for (;;) {
      CatchInterrupt(0);
      const std::optional<std::string> line = ReadLine();
      CatchInterrupt(SA_RESTART);
      if (!line) return;
      const size_t first = line->find_first_not_of(" \t\r");
      if (first == std::string::npos) continue;
      try {
        if ((*line)[first] == '/') {
          if (!Command(line->substr(first))) return;
        } else {
          Answer(*line);
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
    if (!flags_.system.empty()) messages_.push_back({"system", flags_.system});
  }

  // Nothing at the end of the input.
  std::optional<std::string> ReadLine() {
    std::string line;
    if (!interactive_) return std::getline(std::cin, line) ? std::optional(line) : std::nullopt;
    for (;;) {
      interrupted = false;
      char* const raw = readline("> ");
      if (raw == nullptr) {
        std::cerr << '\n';
        if (interrupted) continue;
        return std::nullopt;
      }
      line = raw;
      std::free(raw);
      if (!line.empty()) add_history(line.c_str());
      return line;
    }
  }

  // False: leave.
  bool Command(const std::string& line) {
    std::istringstream words(line);
    std::string name, rest;
    words >> name;
    std::getline(words >> std::ws, rest);
    if (name == "/exit" || name == "/quit" || name == "/bye") return false;
    if (name == "/help") {
      Note({}, kHelp);
    } else if (name == "/reset") {
      Reset();
    } else if (name == "/set") {
      Set(rest);
    } else if (name == "/save") {
      Save(rest);
    } else {
      Fail(ErrorCode::kUsage, "unknown command ", name, "; /help lists the commands");
    }
    return true;
  }

  void Set(const std::string& rest) {
    const size_t space = rest.find(' ');
    if (space == std::string::npos) Fail(ErrorCode::kUsage, "/set wants KEY VALUE");
    const std::string key = rest.substr(0, space), value = rest.substr(space + 1);
    if (key == "system") {
      flags_.system = value;
      Reset();
      return;
    }
    GenerateFlags changed = flags_.generate;
    CLI::App parser;
    AddGenerateOptions(parser, changed);
    try {
      parser.parse(std::vector<std::string>{value, "--" + key});  // CLI11 takes the words from the back
    } catch (const CLI::ParseError& error) {
      Fail(ErrorCode::kUsage, "/set ", key, ": ", error.what());
    }
    CheckedRequest(changed);
    flags_.generate = changed;
  }

  void Save(const std::string& path) {
    if (path.empty()) Fail(ErrorCode::kUsage, "/save wants a file name");
    auto messages = nlohmann::ordered_json::array();
    for (const Message& message : messages_) messages.push_back({{"role", message.role}, {"content", message.content}});
    AtomicFile file(path);
    file.Write(nlohmann::ordered_json{{"messages", messages}}.dump() + "\n");
    file.Commit();
  }

  void Answer(const std::string& question) {
    CheckUtf8(question, "the message");
    messages_.push_back({"user", question});
    Generation result;
    try {
      interrupted = false;
      Request request = CheckedRequest(flags_.generate);
      request.prompt = engine_.model().TokenizeChat(messages_);
      request.adapters = adapters_.Load(engine_.model(), flags_.generate.grafts);
      result = engine_.Generate(std::move(request), [&](const Event& event) {
        if (!flags_.output.json) Write(event.text);
        if (interrupted) engine_.Cancel(event.request);
      });
    } catch (...) {
      messages_.pop_back();
      throw;
    }
    messages_.push_back({"assistant", result.text});
    if (flags_.output.json) {
      WriteJson(ToJson(result));
    } else {
      Write("\n");
    }
    NoteTimings(flags_.output, result.timings);
  }

  Flags flags_;
  bool interactive_;
  Engine engine_;
  Adapters adapters_;
  std::vector<Message> messages_;
};

}  // namespace

void AddRun(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("run", "Chat with a model; /help lists the commands");
  const auto flags = std::make_shared<Flags>();
  AddModel(*verb, flags->model);
  verb->add_option("--system-prompt,--system", flags->system, "What the model is told first");
  AddGenerateOptions(*verb, flags->generate);
  AddOutput(*verb, flags->output);
  verb->callback([flags] { Chat(*flags).Loop(); });
}

}  // namespace cambium::cli
