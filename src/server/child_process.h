#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace cambium::server {

struct ChildOptions {
  std::vector<std::string> arguments;  // the first is the program, a path or a name in PATH
  std::string output, errors;          // files that are written anew; empty: nowhere
  int nice = 0;                        // how far it stands back behind this process
};

// A program that runs beside this one: in a group of its own, which no Ctrl-C reaches, and without our descriptors.
class ChildProcess {
 public:
  explicit ChildProcess(const ChildOptions& options);  // kRuntime naming the program where it cannot be started
  ~ChildProcess();                                     // ends it at once, if it still runs
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  void Signal(int signal) const;
  std::optional<int> Poll();   // its exit code once it has ended, 128 and the signal that ended it
  void Leave() { code_ = 0; }  // it goes on by itself, also behind our end
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  std::optional<int> code_;
};

}  // namespace cambium::server
