#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "cambium/model.h"

namespace cambium {

// What the text of an answer must be: a grammar, compiled for a model's vocabulary (docs/structured-output.md). A
// handle: copies are cheap, share one compiled grammar, and may serve any number of requests on engines of that model.
// Compiling takes milliseconds and needs no engine; it may run on any thread.
//
// All throw kUsage where the grammar is malformed, too large, satisfied by no text, or uses what is not supported,
// which the message names.
class Constraint {
 public:
  struct JsonOptions {
    bool spaced = false;  // ", " and ": " between values, as Python's json.dumps writes, instead of "," and ":"
  };

  // A JSON text that is valid for the schema (2020-12). Nothing is fetched.
  static Constraint JsonSchema(const Model& model, std::string_view schema);
  static Constraint JsonSchema(const Model& model, std::string_view schema, const JsonOptions& options);
  // The whole text matches the regular expression (ECMA 262's syntax).
  static Constraint Regex(const Model& model, std::string_view pattern);
  // One of the texts.
  static Constraint Choice(const Model& model, std::span<const std::string> texts);
  // What the rule `root` derives, in llama.cpp's GBNF.
  static Constraint Grammar(const Model& model, std::string_view gbnf);

  bool Accepts(std::string_view text) const;  // whether it is a whole answer

  struct Impl;
  explicit Constraint(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  const std::shared_ptr<const Impl>& shared() const { return impl_; }  // opaque outside the library

 private:
  std::shared_ptr<const Impl> impl_;
};

}  // namespace cambium
