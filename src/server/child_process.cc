#include "server/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <memory>

#include "cambium/error.h"

namespace cambium::server {
namespace {

// What posix_spawn is told, freed at the end.
struct Orders {
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  Orders() {
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attributes);
  }
  ~Orders() {
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
  }
};

void Redirect(Orders& orders, int descriptor, const std::string& path) {
  posix_spawn_file_actions_addopen(&orders.files, descriptor, path.empty() ? "/dev/null" : path.c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC, 0644);
}

}  // namespace

ChildProcess::ChildProcess(const ChildOptions& options) {
  Orders orders;
  posix_spawn_file_actions_addopen(&orders.files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  Redirect(orders, STDOUT_FILENO, options.output);
  Redirect(orders, STDERR_FILENO, options.errors);
  posix_spawn_file_actions_addclosefrom_np(&orders.files, STDERR_FILENO + 1);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&orders.attributes, &none);
  posix_spawnattr_setsigdefault(&orders.attributes, &all);
  posix_spawnattr_setpgroup(&orders.attributes, 0);
  posix_spawnattr_setflags(&orders.attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  std::vector<std::string> words = options.arguments;
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const int error =
      posix_spawnp(&pid_, words.at(0).c_str(), &orders.files, &orders.attributes, arguments.data(), environ);
  if (error != 0) Fail(ErrorCode::kRuntime, words[0], ": cannot be started: ", std::strerror(error));
  if (options.nice != 0) setpriority(PRIO_PROCESS, static_cast<id_t>(pid_), options.nice);
}

ChildProcess::~ChildProcess() {
  if (code_) return;
  Signal(SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void ChildProcess::Signal(int signal) const {
  if (!code_) kill(pid_, signal);
}

std::optional<int> ChildProcess::Poll() {
  int status = 0;
  if (!code_ && waitpid(pid_, &status, WNOHANG) == pid_) {
    code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  return code_;
}

}  // namespace cambium::server
