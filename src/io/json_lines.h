#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cambium/error.h"
#include "io/csv.h"
#include "io/json.h"
#include "io/mapped_file.h"

namespace cambium {

// The records of a file, one by one: JSON lines, or the elements of one array where the file begins with '['; of a file
// named .csv or .tsv its rows, whose fields are texts with the names of the first row, empty ones left out. A byte
// order mark, blank lines, "\r\n" and a missing last newline are no matter.
//
//   for (JsonLines lines(path); lines.Next();) Use(lines.record());
class JsonLines {
 public:
  static constexpr size_t kMaxLine = size_t{16} << 20;

  explicit JsonLines(const std::string& path, size_t max_line_bytes = kMaxLine);  // kData if it cannot be read

  static bool IsTable(std::string_view path) { return path.ends_with(".csv") || path.ends_with(".tsv"); }

  // Whether there is another record. kData, beginning with where(), for a line that is not JSON; the next call goes on
  // behind it.
  bool Next();
  const nlohmann::ordered_json& record() const { return record_; }
  int64_t line() const { return line_; }  // of the record, from 1; of an array the number of the element
  std::string where() const { return file_.path() + ": line " + std::to_string(line_); }

  // Fails for what is wrong with the record.
  template <class... Parts>
  [[noreturn]] void Bad(const Parts&... parts) const {
    Fail(ErrorCode::kData, where(), ": ", parts...);
  }

 private:
  bool NextElement();
  bool NextRow();

  MappedFile file_;
  size_t max_line_bytes_;
  std::string_view rest_;
  bool is_array_ = false, ended_ = false;
  nlohmann::ordered_json array_, record_;
  std::optional<CsvRows> rows_;
  std::vector<std::string> columns_;
  int64_t line_ = 0;
};

}  // namespace cambium
