#include "cli/constraint_flags.h"

#include "io/json.h"

namespace cambium::cli {

void AddConstraint(CLI::App& verb, ConstraintFlags& flags) {
  verb.add_option("-j,--json-schema", flags.json_schema, "The answer is JSON that is valid for this schema");
  verb.add_option("--json-schema-file", flags.json_schema_file, "The same, from a file");
  verb.add_option("--regex", flags.regex, "The answer matches this regular expression");
  verb.add_option("--grammar", flags.grammar, "The answer is what this grammar derives (llama.cpp's GBNF)");
  verb.add_option("--grammar-file", flags.grammar_file, "The same, from a file");
}

std::optional<Constraint> ConstraintOf(const ConstraintFlags& flags, const Model& model) {
  const std::pair<const char*, const std::string*> all[] = {{"--json-schema", &flags.json_schema},
                                                            {"--json-schema-file", &flags.json_schema_file},
                                                            {"--regex", &flags.regex},
                                                            {"--grammar", &flags.grammar},
                                                            {"--grammar-file", &flags.grammar_file}};
  const char* given = nullptr;
  for (const auto& [name, value] : all) {
    if (value->empty()) continue;
    if (given != nullptr) Fail(ErrorCode::kUsage, given, " and ", name, " both bind the answer; give one of them");
    given = name;
  }
  if (!flags.json_schema.empty()) return Constraint::JsonSchema(model, flags.json_schema);
  if (!flags.json_schema_file.empty()) return Constraint::JsonSchema(model, ReadTextFile(flags.json_schema_file));
  if (!flags.regex.empty()) return Constraint::Regex(model, flags.regex);
  if (!flags.grammar.empty()) return Constraint::Grammar(model, flags.grammar);
  if (!flags.grammar_file.empty()) return Constraint::Grammar(model, ReadTextFile(flags.grammar_file));
  return std::nullopt;
}

}  // namespace cambium::cli
