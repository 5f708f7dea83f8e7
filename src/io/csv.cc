#include "io/csv.h"

#include <algorithm>

#include "cambium/error.h"

namespace cambium {

std::string CsvRows::QuotedCell() {
  std::string cell;
  for (size_t at = 1; at < rest_.size(); ++at) {
    const char c = rest_[at];
    if (c != '"') {
      cell += c;
      next_line_ += c == '\n';
      continue;
    }
    const bool doubled = at + 1 < rest_.size() && rest_[at + 1] == '"';
    if (doubled) {
      cell += rest_[at++];
      continue;
    }
    rest_.remove_prefix(at + 1);
    const bool ends = rest_.empty() || rest_[0] == separator_ || rest_[0] == '\n' || rest_[0] == '\r';
    if (!ends) Fail(ErrorCode::kData, "text stands behind the quotes of a cell");
    return cell;
  }
  rest_ = {};
  Fail(ErrorCode::kData, "the quotes of a cell do not close");
}

std::string CsvRows::PlainCell() {
  const char ends[] = {separator_, '\n', '\r', 0};
  const size_t end = std::min(rest_.find_first_of(ends), rest_.size());
  std::string cell(rest_.substr(0, end));
  rest_.remove_prefix(end);
  return cell;
}

bool CsvRows::Next(std::vector<std::string>& cells) {
  while (!rest_.empty() && (rest_[0] == '\n' || rest_[0] == '\r')) {
    next_line_ += rest_[0] == '\n';
    rest_.remove_prefix(1);
  }
  cells.clear();
  if (rest_.empty()) return false;
  line_ = next_line_;
  try {
    for (;;) {
      cells.push_back(!rest_.empty() && rest_[0] == '"' ? QuotedCell() : PlainCell());
      if (rest_.empty() || rest_[0] != separator_) return true;
      rest_.remove_prefix(1);
    }
  } catch (...) {
    rest_.remove_prefix(std::min(rest_.find('\n'), rest_.size()));
    throw;
  }
}

}  // namespace cambium
