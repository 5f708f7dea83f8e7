#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace cambium::cli {

// Puts the verbs, and each verb's options, into groups, and an example behind each verb's help.
void ArrangeHelp(CLI::App& app);

// What the values of an option may be, as far as they are words; empty: anything. `verb`: whose option it is.
std::vector<std::string> ValuesOf(const std::string& verb, const CLI::Option& option);

}  // namespace cambium::cli
