#include "cli/word_wrap.h"

#include <sys/ioctl.h>
#include <utf8proc.h>

#include "io/unicode.h"

namespace cambium::cli {

void WordWrap::Place(std::string& out) {
  const bool fits = columns_ <= 0 || column_ + gap_width_ + word_width_ <= columns_;
  const bool breaks = !fits && column_ > 0 && !word_.empty();
  if (breaks) {
    out += '\n';
    column_ = word_width_;
  } else {
    out += gap_;
    column_ += gap_width_ + word_width_;
  }
  out += word_;
  if (columns_ > 0 && column_ > columns_) column_ %= columns_;
  gap_.clear();
  word_.clear();
  gap_width_ = word_width_ = 0;
}

std::string WordWrap::Push(std::string_view text) {
  constexpr int kTab = 8;
  std::string out;
  const char* const end = text.data() + text.size();
  for (const char* at = text.data(); at < end;) {
    const CodePoint c = DecodeUtf8(at, end);
    const std::string_view bytes(at, static_cast<size_t>(c.length));
    at += c.length;
    if (c.value == '\n') {
      Place(out);
      out += '\n';
      column_ = 0;
    } else if (c.value == ' ' || c.value == '\t') {
      if (!word_.empty()) Place(out);
      gap_ += bytes;
      gap_width_ += c.value == ' ' ? 1 : kTab - (column_ + gap_width_) % kTab;
    } else if (c.value >= 0x20 && c.value != 0x7F && !(c.value >= 0x80 && c.value < 0xA0)) {
      const int width = c.valid ? utf8proc_charwidth(static_cast<utf8proc_int32_t>(c.value)) : 1;
      if (width > 1 && !word_.empty()) Place(out);
      word_ += bytes;
      word_width_ += width;
      if (width > 1) Place(out);
    }
  }
  return out;
}

std::string WordWrap::Finish() {
  std::string out;
  Place(out);
  return out;
}

int TerminalColumns(int descriptor) {
  winsize size{};
  return ioctl(descriptor, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

}  // namespace cambium::cli
