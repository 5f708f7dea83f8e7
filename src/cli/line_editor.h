#pragma once

#include <memory>
#include <string>

namespace cambium::cli {

// Reads messages at a terminal: editing in UTF-8 with wide characters, a history, and pastes (bracketed) that stay one
// message with their line ends and tabs. Alt-Enter begins a new line. Needs standard input to be a terminal; while one
// lives, the process has a locale of UTF-8 for characters.
class LineEditor {
 public:
  LineEditor();
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  enum class Outcome { kLine, kInterrupted, kEnd };
  // A message without its last line end; kInterrupted for Ctrl-C, kEnd for Ctrl-D on an empty line.
  Outcome Read(const std::string& prompt, std::string& line);

  // For the time of an answer: what is typed is not shown, and is there for the next Read. Ctrl-C stays a signal.
  class Hold {
   public:
    Hold();
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    struct Saved;
    std::unique_ptr<Saved> saved_;
  };

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Ctrl-C since the last call of ClearInterrupt. Only a Chat catches it.
bool Interrupted();
void ClearInterrupt();
// Ctrl-C sets the flag from here on. `restart`: a write that it meets goes on.
void CatchInterrupt(bool restart);

}  // namespace cambium::cli
