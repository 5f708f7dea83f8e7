#include <memory>

#include "cli/option_table.h"
#include "cli/options.h"
#include "cli/verbs.h"

namespace cambium::cli {
namespace {

// Text as roff prints it literally.
std::string Roff(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if ((i == 0 || text[i - 1] == '\n') && (c == '.' || c == '\'')) out += "\\&";
    if (c == '-') {
      out += "\\-";
    } else if (c == '\\') {
      out += "\\e";
    } else {
      out += c;
    }
  }
  return out;
}

std::string ManPage(const std::vector<VerbEntry>& table) {
  std::string page = ".TH CAMBIUM 1 \"\" \"cambium " CAMBIUM_VERSION "\" \"User Commands\"\n.SH NAME\ncambium \\- " +
                     Roff(table[0].description) +
                     "\n.SH SYNOPSIS\n.B cambium\n.I VERB\n[\\fIoption\\fR ...]\n"
                     ".SH DESCRIPTION\nData goes to standard output, progress and messages to standard error.\n"
                     ".SH VERBS\n";
  for (size_t i = 1; i < table.size(); ++i) {
    page += ".SS cambium " + Roff(table[i].name) + "\n" + Roff(table[i].description) + "\n";
    for (const OptionEntry& option : table[i].options) {
      std::string names;
      for (const std::string& name : option.names) names += (names.empty() ? "" : ", ") + Roff(name);
      page += ".TP\n\\fB" + names + "\\fR" + (option.takes_value && !option.positional ? " \\fIvalue\\fR" : "") + "\n" +
              Roff(option.description);
      if (!option.default_value.empty()) page += " [" + Roff(option.default_value) + "]";
      page += "\n";
    }
  }
  page +=
      ".SH EXIT STATUS\n"
      ".TP\n0\nSuccess.\n.TP\n1\nSomething failed at run time.\n.TP\n2\nThe command line or the input is wrong.\n"
      ".TP\n3\nA model or data file is wrong.\n.TP\n4\nMemory or disk does not suffice.\n"
      ".TP\n5\nInterrupted, with a checkpoint saved.\n.TP\n130\nInterrupted by Ctrl\\-C.\n"
      ".SH ENVIRONMENT\n"
      ".TP\nCAMBIUM_HOME\nThe cache directory; else $XDG_CACHE_HOME/cambium, else ~/.cache/cambium.\n"
      ".TP\nCAMBIUM_THREADS\nDefault of \\-\\-threads.\n"
      ".TP\nCAMBIUM_ISA\nThe instruction set to use instead of the best one.\n"
      ".TP\nNO_COLOR\nIf set, no colour.\n";
  return page;
}

nlohmann::ordered_json TableJson(const std::vector<VerbEntry>& table) {
  auto verbs = nlohmann::ordered_json::array();
  for (const VerbEntry& verb : table) {
    auto options = nlohmann::ordered_json::array();
    for (const OptionEntry& option : verb.options) {
      options.push_back({{"names", option.names},
                         {"description", option.description},
                         {"takes_value", option.takes_value},
                         {"required", option.required},
                         {"default", option.default_value},
                         {"values", option.values}});
    }
    verbs.push_back({{"verb", verb.name}, {"description", verb.description}, {"options", options}});
  }
  return verbs;
}

}  // namespace

void AddMan(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("man", "Print the manual page; with --json the table of all options");
  const auto output = std::make_shared<OutputFlags>();
  AddOutput(*verb, *output);
  verb->callback([output, &app] {
    const std::vector<VerbEntry> table = OptionTable(app);
    output->json ? WriteJson(TableJson(table)) : Write(ManPage(table));
  });
}

}  // namespace cambium::cli
