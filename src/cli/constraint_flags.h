#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "cambium/cambium.h"

namespace cambium::cli {

// What the answer must be, by llama.cpp's names.
struct ConstraintFlags {
  std::string json_schema, json_schema_file, regex, grammar, grammar_file;
};
void AddConstraint(CLI::App& verb, ConstraintFlags& flags);
// kUsage where more than one is given; none where none is.
std::optional<Constraint> ConstraintOf(const ConstraintFlags& flags, const Model& model);

}  // namespace cambium::cli
