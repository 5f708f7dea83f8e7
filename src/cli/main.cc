#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>
#include <new>
#include <set>

#include "cambium/warning.h"
#include "cli/command_line.h"
#include "cli/help.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "scale/launch.h"

namespace {

using namespace cambium;

// Text is flushed as it is written, so nothing is lost.
void ExitOnInterrupt(int) {
  if (isatty(STDOUT_FILENO) == 1) [[maybe_unused]]
    const ssize_t ignored = write(STDOUT_FILENO, "\n", 1);
  _exit(130);
}

int Report(int code, std::string_view message) {
  if (!SpeaksForRanks(code, message)) return code;
  const bool color = cli::UseColor(stderr);
  std::cerr << (color ? "\033[1;31merror:\033[0m " : "error: ") << message << '\n';
  return code;
}

// Once each: a model's files may be read more than once.
void PrintWarning(const std::string& text) {
  static std::set<std::string> said;
  if (!said.insert(text).second || !IsFirst(JoinedRanks())) return;
  std::cerr << (cli::UseColor(stderr) ? "\033[1;33mwarning:\033[0m " : "warning: ") << text << '\n';
}

int Run(int argc, char** argv) {
  CLI::App app{"Adapts frozen language models and serves them.", "cambium"};
  app.require_subcommand(1);
  app.set_version_flag("--version", CAMBIUM_VERSION);
  app.get_formatter()->column_width(34);
  for (const auto add_verb : cli::kVerbs) add_verb(app);

  cli::ArrangeHelp(app);
  cli::CheckNames(app, argc, argv);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return Report(2, cli::Sentence(app, error) + "; see `cambium " +
                         (argv[1][0] == '-' ? "" : argv[1] + std::string(" ")) + "--help`");
  }
  return 0;
}

int Guarded(int argc, char** argv) {
  try {
    int code = Run(argc, argv);
    if (std::fflush(stdout) != 0 && code == 0) {
      code = Report(static_cast<int>(ErrorCode::kResource), std::string("standard output: ") + std::strerror(errno));
    }
    return code;
  } catch (const Error& error) {
    return Report(static_cast<int>(error.code()), error.what());
  } catch (const std::bad_alloc&) {
    return Report(static_cast<int>(ErrorCode::kResource), "out of memory");
  } catch (const std::exception& error) {
    return Report(static_cast<int>(ErrorCode::kRuntime), error.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGINT, ExitOnInterrupt);
  SetWarningHandler(PrintWarning);
  // As mpirun writes it; options of one dash have one letter.
  for (int i = 1; i < argc; ++i) {
    static char np[] = "--np";
    if (std::string_view(argv[i]) == "-np") argv[i] = np;
  }
  return LeaveRanks(Guarded(argc, argv));
}
