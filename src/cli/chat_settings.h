#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cli/constraint_flags.h"
#include "cli/options.h"

namespace cambium::cli {

// What may be other with each answer: the options that `generate` and `run` share.
struct AnswerFlags {
  GenerateFlags generate;
  ConstraintFlags constraint;
  std::string tools;
  bool show_draft = false;
};
void AddAnswerOptions(CLI::App& verb, AnswerFlags& flags);
// The list of tools in a file, as JSON; kData where it is none. Empty for no file.
std::string ToolsOf(const std::string& path);

// The settings of a conversation, by the long names of `generate`'s options: those of the command line at first.
class ChatSettings {
 public:
  // given: the verb, parsed; what was not given there has its default.
  explicit ChatSettings(const CLI::App& given);

  const AnswerFlags& flags() const { return *flags_; }
  // "temp = 0.8 (the default)"; kUsage with the nearest where no option has this name.
  std::string Show(const std::string& name) const;
  // A line for each.
  std::string List() const;

  // The settings with one of them changed; kUsage where the value is wrong. `add`: beside the values that it has.
  ChatSettings With(const std::string& name, const std::string& value, bool add) const;
  // The same with its default.
  ChatSettings Without(const std::string& name) const;

 private:
  using Values = std::map<std::string, std::vector<std::string>>;  // by long name, of what is not the default
  explicit ChatSettings(Values values);
  static std::string ShowOption(const CLI::Option& option);

  Values values_;
  std::shared_ptr<AnswerFlags> flags_;
  std::shared_ptr<CLI::App> parser_;  // of the values into the flags
};

}  // namespace cambium::cli
