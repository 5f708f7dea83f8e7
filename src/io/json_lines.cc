#include "io/json_lines.h"

#include <algorithm>
#include <utility>

#include "io/unicode.h"

namespace cambium {

JsonLines::JsonLines(const std::string& path, size_t max_line_bytes) : file_(path), max_line_bytes_(max_line_bytes) {
  rest_ = {reinterpret_cast<const char*>(file_.bytes().data()), file_.bytes().size()};
  if (rest_.starts_with("\xEF\xBB\xBF")) rest_.remove_prefix(3);
  if (IsTable(path)) {
    rows_.emplace(rest_, path.ends_with(".tsv") ? '\t' : ',');
    if (!rows_->Next(columns_)) return;
    line_ = 1;
    for (const std::string& name : columns_) {
      if (name.empty() || std::ranges::count(columns_, name) > 1) {
        Bad("the first row names the columns; \"", name, "\" is ", name.empty() ? "no name" : "there twice");
      }
    }
    return;
  }
  const size_t first = rest_.find_first_not_of(" \t\r\n");
  is_array_ = first != rest_.npos && rest_[first] == '[';
  if (is_array_) array_ = ParseOrderedJson(rest_, path, {.max_bytes = rest_.size()});
}

bool JsonLines::NextElement() {
  if (static_cast<size_t>(line_) == array_.size()) return false;
  record_ = std::move(array_[static_cast<size_t>(line_++)]);
  return true;
}

bool JsonLines::NextRow() {
  std::vector<std::string> cells;
  bool more = false;
  try {
    more = rows_->Next(cells);
  } catch (const Error& error) {
    line_ = rows_->line();
    Bad(error.what());
  }
  if (!more) {
    if (!std::exchange(ended_, true)) file_.CheckIntact();
    return false;
  }
  line_ = rows_->line();
  if (cells.size() != columns_.size()) Bad(cells.size(), " cells, the first row names ", columns_.size(), " columns");
  record_ = nlohmann::ordered_json::object();
  for (size_t i = 0; i < cells.size(); ++i) {
    if (cells[i].size() > max_line_bytes_) Bad(cells[i].size(), " bytes, more than the limit of ", max_line_bytes_);
    if (!IsValidUtf8(cells[i])) Bad("column \"", columns_[i], "\" is not UTF-8");
    if (!cells[i].empty()) record_[columns_[i]] = cells[i];
  }
  return true;
}

bool JsonLines::Next() {
  if (rows_) return NextRow();
  if (is_array_) return NextElement();
  while (!rest_.empty()) {
    const size_t end = std::min(rest_.find('\n'), rest_.size());
    const std::string_view line = rest_.substr(0, end);
    rest_.remove_prefix(std::min(end + 1, rest_.size()));
    ++line_;
    if (line.find_first_not_of(" \t\r\v\f") == line.npos) continue;
    if (line.size() > max_line_bytes_) Bad(line.size(), " bytes, more than the limit of ", max_line_bytes_);
    try {
      record_ = ParseOrderedJson(line, "");
    } catch (const Error& error) {
      std::string_view why = error.what();  // ": line 1, offset 7: ..."
      for (std::string_view part : {": ", "line 1, "}) {
        if (why.starts_with(part)) why.remove_prefix(part.size());
      }
      Bad(why);
    }
    return true;
  }
  if (!std::exchange(ended_, true)) file_.CheckIntact();
  return false;
}

}  // namespace cambium
