#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace cambium {

// Rows of a table in text, as RFC 4180 has them: cells between `separator`, in double quotes where they hold one, a
// quote or a line end; "" within quotes is a quote. Lines may end in "\r\n"; blank ones between rows are passed over.
class CsvRows {
 public:
  CsvRows(std::string_view text, char separator) : rest_(text), separator_(separator) {}

  // Whether there is another row. kData without a file's name, at line(), where quotes do not close or stand within a
  // cell that does not begin with one; the next call goes on behind that line.
  bool Next(std::vector<std::string>& cells);
  int64_t line() const { return line_; }  // on which the row begins, from 1

 private:
  std::string QuotedCell();
  std::string PlainCell();

  std::string_view rest_;
  char separator_;
  int64_t line_ = 0, next_line_ = 1;
};

}  // namespace cambium
