#include "cli/option_table.h"

#include "cli/help.h"

namespace cambium::cli {
namespace {

OptionEntry Entry(const std::string& verb, const CLI::Option& option) {
  OptionEntry entry;
  entry.description = option.get_description();
  entry.default_value = option.get_default_str();
  entry.values = ValuesOf(verb, option);
  entry.takes_value = TakesValue(option);
  entry.required = option.get_required();
  entry.positional = option.nonpositional() == false;
  if (entry.positional) entry.names.push_back(option.get_name(true));
  for (const std::string& name : option.get_snames()) entry.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) entry.names.push_back("--" + name);
  return entry;
}

void Append(const CLI::App& app, const std::string& name, std::vector<VerbEntry>& table) {
  VerbEntry& verb = table.emplace_back(VerbEntry{name, app.get_description(), {}});
  for (const CLI::Option* option : app.get_options()) {
    if (option->nonpositional() || !option->get_name(true).empty()) verb.options.push_back(Entry(name, *option));
  }
  for (const CLI::App* child : app.get_subcommands(nullptr)) {
    Append(*child, name.empty() ? child->get_name() : name + " " + child->get_name(), table);
  }
}

}  // namespace

bool TakesValue(const CLI::Option& option) { return option.get_items_expected_max() > 0; }

std::vector<VerbEntry> OptionTable(const CLI::App& root) {
  std::vector<VerbEntry> table;
  Append(root, "", table);
  return table;
}

}  // namespace cambium::cli
