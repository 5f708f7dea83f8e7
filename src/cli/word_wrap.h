#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cambium::cli {

// Breaks a stream of text into lines of a terminal between words. Wide characters take two columns and may be broken
// between. A word longer than a line goes on in the next. Control characters other than line ends and tabs are left
// out, so that no answer can steer the terminal.
class WordWrap {
 public:
  // columns: of the terminal; 0: lines stay as they are.
  explicit WordWrap(int columns) : columns_(columns) {}

  // What can be shown after `text` (whole code points) came; a word that may go on is kept back.
  std::string Push(std::string_view text);
  std::string Finish();                   // what was kept back
  int column() const { return column_; }  // where the next character goes, from 0

 private:
  void Place(std::string& out);  // the gap and the word

  int columns_, column_ = 0;
  std::string gap_, word_;  // white space that is not shown yet, and the word behind it
  int gap_width_ = 0, word_width_ = 0;
};

// Columns of the terminal at `descriptor`; 0: it is none, or does not say.
int TerminalColumns(int descriptor);

}  // namespace cambium::cli
