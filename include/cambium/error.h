#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace cambium {

// The documented exit codes of the program; library callers read them from Error::code().
enum class ErrorCode {
  kRuntime = 1,      // something failed that is nobody's input: a lost connection, a port in use
  kUsage = 2,        // the caller asked for something impossible: an unknown option, an empty prompt
  kData = 3,         // a model, tokenizer, dataset or adapter file is wrong
  kResource = 4,     // memory or disk does not suffice
  kInterrupted = 5,  // stopped on request, with a checkpoint saved
};

// The only exception type that Cambium throws. what() is one line naming the file or field and the value.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// Throws Error with the parts streamed together: Fail(ErrorCode::kData, path, ": magic is ", magic).
template <class... Parts>
[[noreturn]] void Fail(ErrorCode code, const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(code, message.str());
}

}  // namespace cambium
