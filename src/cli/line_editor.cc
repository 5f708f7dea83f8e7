#include "cli/line_editor.h"

#include <histedit.h>
#include <langinfo.h>
#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <cwchar>

#include "base/check.h"
#include "io/unicode.h"

namespace cambium::cli {
namespace {

std::atomic<bool> interrupted{false}, resized{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void Catch(int signal, void (*handler)(int), int flags) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  sigaction(signal, &action, nullptr);
}

// libedit writes wide characters in the locale's coding. A bare container has "C" for it, where it would lose them.
void UseUtf8() {
  std::setlocale(LC_CTYPE, "");
  if (std::strcmp(nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
}

// 1: a byte, 0: the end, -1: Ctrl-C.
int ReadByte(EditLine* editor, unsigned char& byte) {
  for (;;) {
    const ssize_t count = read(STDIN_FILENO, &byte, 1);
    if (count >= 0) return static_cast<int>(count);
    if (errno != EINTR) return 0;
    if (resized.exchange(false)) el_resize(editor);
    if (interrupted) return -1;
  }
}

// A code point of the input; U+FFFD for bytes that are none.
int ReadCharacter(EditLine* editor, wchar_t* character) {
  unsigned char byte = 0;
  int outcome = ReadByte(editor, byte);
  if (outcome <= 0) return outcome;
  char bytes[4] = {static_cast<char>(byte)};
  const int length = byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
  for (int i = 1; i < length; ++i) {
    outcome = ReadByte(editor, byte);
    if (outcome <= 0) return outcome;
    bytes[i] = static_cast<char>(byte);
  }
  const CodePoint c = DecodeUtf8(bytes, bytes + length);
  *character = c.valid ? static_cast<wchar_t>(c.value) : L'\uFFFD';
  return 1;
}

unsigned char InsertNewline(EditLine* editor, wint_t) {
  return el_winsertstr(editor, L"\n") == 0 ? CC_REFRESH : CC_ERROR;
}

// All up to the mark that ends a paste, as one insertion.
unsigned char InsertPaste(EditLine* editor, wint_t) {
  static constexpr std::wstring_view kEnd = L"\033[201~";
  std::wstring pasted;
  for (wchar_t c; !pasted.ends_with(kEnd);) {
    if (el_wgetc(editor, &c) != 1) return CC_EOF;
    pasted += c;
  }
  pasted.resize(pasted.size() - kEnd.size());
  std::wstring text;
  for (size_t i = 0; i < pasted.size(); ++i) {
    const wchar_t c = pasted[i];
    if (c == L'\n' && i > 0 && pasted[i - 1] == L'\r') continue;  // terminals send \r, few send both
    if (c == L'\r') {
      text += L'\n';
    } else if (c == L'\n' || c == L'\t' || (c >= L' ' && c != 0x7F)) {
      text += c;
    }
  }
  if (!text.empty() && el_winsertstr(editor, text.c_str()) != 0) return CC_ERROR;
  return CC_REFRESH;
}

std::string Utf8Of(std::wstring_view text) {
  std::string bytes;
  for (const wchar_t c : text) AppendUtf8(bytes, static_cast<uint32_t>(c));
  return bytes;
}

}  // namespace

struct LineEditor::Impl {
  FILE* out = isatty(STDERR_FILENO) == 1 ? stderr : stdout;
  EditLine* editor = nullptr;
  HistoryW* history = nullptr;
  std::wstring prompt;
  termios before{};
};

LineEditor::LineEditor() : impl_(std::make_unique<Impl>()) {
  UseUtf8();
  tcgetattr(STDIN_FILENO, &impl_->before);
  Catch(
      SIGWINCH, [](int) { resized = true; }, 0);
  EditLine* const editor = impl_->editor = el_init("cambium", stdin, impl_->out, stderr);
  Check(editor != nullptr, "libedit starts");
  impl_->history = history_winit();
  HistEventW event;
  constexpr int kMostRemembered = 1000;
  history_w(impl_->history, &event, H_SETSIZE, kMostRemembered);
  el_wset(editor, EL_CLIENTDATA, impl_.get());
  el_wset(
      editor, EL_PROMPT, +[](EditLine* from) -> wchar_t* {
        Impl* impl = nullptr;
        el_wget(from, EL_CLIENTDATA, &impl);
        return impl->prompt.data();
      });
  el_wset(editor, EL_EDITOR, L"emacs");
  el_wset(editor, EL_HIST, history_w, impl_->history);
  el_wset(editor, EL_GETCFN, &ReadCharacter);
  el_wset(editor, EL_ADDFN, L"cambium-newline", L"Begin a new line", &InsertNewline);
  el_wset(editor, EL_ADDFN, L"cambium-paste", L"Take a paste", &InsertPaste);
  for (const wchar_t* const key : {L"\\e\\r", L"\\e\\n", L"\\e[13;2u", L"\\e[27;2;13~"}) {  // Alt- and Shift-Enter
    el_wset(editor, EL_BIND, key, L"cambium-newline", nullptr);
  }
  el_wset(editor, EL_BIND, L"\\e[200~", L"cambium-paste", nullptr);
  el_wset(editor, EL_BIND, L"\\t", L"ed-insert", nullptr);
  el_wset(editor, EL_BIND, L"^R", L"em-inc-search-prev", nullptr);
  std::fputs("\033[?2004h", impl_->out);
  std::fflush(impl_->out);
}

LineEditor::~LineEditor() {
  std::fputs("\033[?2004l", impl_->out);
  std::fflush(impl_->out);
  el_end(impl_->editor);
  history_wend(impl_->history);
  tcsetattr(STDIN_FILENO, TCSADRAIN, &impl_->before);
  Catch(SIGWINCH, SIG_DFL, 0);
}

LineEditor::Outcome LineEditor::Read(const std::string& prompt, std::string& line) {
  impl_->prompt.assign(prompt.begin(), prompt.end());
  if (resized.exchange(false)) el_resize(impl_->editor);
  interrupted = false;
  int count = 0;
  const wchar_t* const text = el_wgets(impl_->editor, &count);
  if (text == nullptr || count <= 0) {
    std::fputs("\n", impl_->out);
    return interrupted ? Outcome::kInterrupted : Outcome::kEnd;
  }
  std::wstring_view whole(text, static_cast<size_t>(count));
  if (whole.ends_with(L'\n')) whole.remove_suffix(1);
  line = Utf8Of(whole);
  if (!whole.empty()) {
    HistEventW event;
    history_w(impl_->history, &event, H_ENTER, std::wstring(whole).c_str());
  }
  return Outcome::kLine;
}

struct LineEditor::Hold::Saved {
  termios before{};
};

LineEditor::Hold::Hold() {
  auto saved = std::make_unique<Saved>();
  if (tcgetattr(STDIN_FILENO, &saved->before) != 0) return;
  termios quiet = saved->before;
  quiet.c_lflag &= ~static_cast<tcflag_t>(ECHO | ICANON);
  quiet.c_iflag &= ~static_cast<tcflag_t>(ICRNL);
  if (tcsetattr(STDIN_FILENO, TCSANOW, &quiet) == 0) saved_ = std::move(saved);
}

LineEditor::Hold::~Hold() {
  if (saved_ != nullptr) tcsetattr(STDIN_FILENO, TCSANOW, &saved_->before);
}

bool Interrupted() { return interrupted; }
void ClearInterrupt() { interrupted = false; }
void CatchInterrupt(bool restart) {
  Catch(
      SIGINT, [](int) { interrupted = true; }, restart ? SA_RESTART : 0);
}

}  // namespace cambium::cli
