#pragma once

#include "io/json_lines.h"

namespace cambium::cli {

template <class F>
void RecordFile::ForEach(const F& use) {
  JsonLines lines(flags_.input);
  const Json none;
  for (int64_t at = 0;; ++at) {
    std::string error;
    try {
      if (!lines.Next()) return;
    } catch (const Error& bad) {
      error = bad.what();
    }
    if (at < first_ + before_) continue;
    if (at >= first_ + total_) return;
    if (!use(at - first_, lines.line(), error.empty() ? lines.record() : none, error)) return;
  }
}

}  // namespace cambium::cli
