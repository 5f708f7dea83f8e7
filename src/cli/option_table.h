#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace cambium::cli {

// What the man page and the completions are generated from: the options that the verbs registered.
struct OptionEntry {
  std::vector<std::string> names;  // "-n", "--predict"; a positional's bare name
  std::string description;
  std::string default_value;        // empty: none
  std::vector<std::string> values;  // that it may have; empty: any
  bool takes_value = false;
  bool positional = false;
  bool required = false;
};
struct VerbEntry {
  std::string name;  // "generate", "window cover"
  std::string description;
  std::vector<OptionEntry> options;
};

// Whether something follows the option: it is no flag, and not one that is called at once.
bool TakesValue(const CLI::Option& option);

// Every verb in the order of registration, a verb's own verbs behind it; the first entry is the program itself.
std::vector<VerbEntry> OptionTable(const CLI::App& root);

}  // namespace cambium::cli
