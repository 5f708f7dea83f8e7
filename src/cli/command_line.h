#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace cambium::cli {

// kUsage with the nearest name where the command line has a verb or an option that is none. It looks before CLI11 does,
// which would give a misspelt option's value to the next positional argument and complain about that.
void CheckNames(const CLI::App& app, int argc, char** argv);

// CLI11's complaint as one sentence about the option: "--predict: "ten" is not a whole number".
std::string Sentence(const CLI::App& app, const CLI::ParseError& error);

}  // namespace cambium::cli
