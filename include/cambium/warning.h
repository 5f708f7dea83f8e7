#pragma once

#include <functional>
#include <sstream>
#include <string>

namespace cambium {

// What the library has to say without failing: one line that names file, field and value, and what is assumed. The
// library prints nothing; a program that wants to hear sets a handler, for the whole process, which any thread may
// call.
using WarningHandler = std::function<void(const std::string& text)>;
void SetWarningHandler(WarningHandler handler);  // empty: nobody listens

void SendWarning(const std::string& text);
// The parts streamed together, as Fail takes them.
template <class... Parts>
void Warn(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  SendWarning(text.str());
}

}  // namespace cambium
