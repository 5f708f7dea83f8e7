#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "cambium/error.h"
#include "grammar/acceptor.h"
#include "grammar/gbnf.h"
#include "grammar/json_schema.h"
#include "grammar/regex.h"
#include "io/json.h"

namespace cambium::testing {

// A grammar that texts are tried on.
class Texts {
 public:
  explicit Texts(Rules& rules, Rules::Rule root) : program_(rules, root), acceptor_(program_) {}
  bool Accept(std::string_view text) {
    const Acceptor::Set end = acceptor_.Run(acceptor_.Begin(), text);
    return end != Acceptor::kDead && acceptor_.complete(end);
  }
  const Program& program() const { return program_; }
  Acceptor& acceptor() { return acceptor_; }

 private:
  Program program_;
  Acceptor acceptor_;
};

template <class Write>
std::unique_ptr<Texts> Compile(const Write& write) {
  Rules rules;
  const Rules::Rule root = rules.NewRule("answer");
  rules.Define(root, write(rules));
  return std::make_unique<Texts>(rules, root);
}

inline std::unique_ptr<Texts> Schema(const std::string& schema, JsonStyle style = {}) {
  return Compile(
      [&](Rules& rules) { return CompileJsonSchema(ParseOrderedJson(schema, "s"), "json_schema", style, rules); });
}
inline std::unique_ptr<Texts> Regex(const std::string& pattern) {
  return Compile(
      [&](Rules& rules) { return CompileRegex(pattern, RegexMatch::kWhole, "regex", rules.budget()).Utf8(rules); });
}
inline std::unique_ptr<Texts> Gbnf(const std::string& grammar) {
  return Compile([&](Rules& rules) { return CompileGbnf(grammar, rules); });
}

// The message that compiling fails with; empty where it does not.
template <class Make>
std::string Refusal(const Make& make, const std::string& text) {
  try {
    make(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    return error.what();
  }
  return "";
}

}  // namespace cambium::testing
