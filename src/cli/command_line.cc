#include "cli/command_line.h"

#include <algorithm>
#include <cctype>
#include <string_view>
#include <vector>

#include "base/nearest.h"
#include "cambium/error.h"
#include "cli/option_table.h"

namespace cambium::cli {
namespace {

std::vector<std::string> Verbs(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* const verb : app.get_subcommands(nullptr)) names.push_back(verb->get_name());
  return names;
}

const CLI::App* VerbOf(const CLI::App& app, std::string_view name) {
  const auto verbs = app.get_subcommands(nullptr);
  const auto is = [&](const CLI::App* verb) { return verb->get_name() == name; };
  const auto found = std::ranges::find_if(verbs, is);
  return found == verbs.end() ? nullptr : *found;
}

struct Known {
  std::vector<std::string> names;           // "-n", "--predict"
  std::vector<const CLI::Option*> options;  // of each name
  const CLI::Option* Find(std::string_view name) const {
    const auto found = std::ranges::find(names, name);
    return found == names.end() ? nullptr : options[static_cast<size_t>(found - names.begin())];
  }
};

Known OptionsOf(const CLI::App& verb) {
  Known known;
  const auto add = [&](const std::string& name, const CLI::Option* option) {
    known.names.push_back(name);
    known.options.push_back(option);
  };
  for (const CLI::Option* const option : verb.get_options()) {
    for (const std::string& name : option->get_lnames()) add("--" + name, option);
    for (const std::string& name : option->get_snames()) add("-" + name, option);
  }
  return known;
}

// "-n5" is -n with a value, "-iq" two flags; "-ngl" is neither.
bool IsAttached(std::string_view word, const Known& known) {
  for (size_t i = 1; i < word.size(); ++i) {
    const CLI::Option* const option = known.Find(std::string("-") + word[i]);
    if (option == nullptr) return false;
    if (!TakesValue(*option)) continue;
    const std::string_view value = word.substr(i + 1);
    const bool number = option->get_type_name() == "INT" || option->get_type_name() == "FLOAT";
    return !number || std::ranges::all_of(value, [](char c) { return std::isdigit(c) || c == '.' || c == '-'; });
  }
  return true;
}

// What llama.cpp has and Cambium has no use for, by how it is spelt there.
std::string_view Why(std::string_view name) {
  for (const std::string_view gpu : {"-ngl", "--gpu-layers", "--n-gpu-layers", "-fa", "--flash-attn", "-sm", "-mg"}) {
    if (name == gpu) return " (everything runs on the CPU; leave it out)";
  }
  return "";
}

}  // namespace

void CheckNames(const CLI::App& app, int argc, char** argv) {
  if (argc < 2) Fail(ErrorCode::kUsage, "a verb is required; `cambium --help` lists them");
  const CLI::App* verb = &app;
  std::string path = "cambium";
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    const CLI::App* const deeper = verb->get_subcommands(nullptr).empty() ? nullptr : VerbOf(*verb, word);
    if (deeper != nullptr) {
      verb = deeper;
      path += " " + verb->get_name();
      continue;
    }
    const bool option = word.size() > 1 && word[0] == '-' && !std::isdigit(word[1]) && word[1] != '.';
    if (!option && !verb->get_subcommands(nullptr).empty()) {
      const std::string own = verb == &app ? "" : verb->get_name() + " ";
      Fail(ErrorCode::kUsage, "unknown verb `", own, word, "`", NearestHint(word, Verbs(*verb)), "; `", path,
           " --help` lists them");
    }
    if (word == "--") return;
    if (!option) continue;
    const Known known = OptionsOf(*verb);
    const std::string_view name = word.substr(0, word.starts_with("--") ? word.find('=') : word.npos);
    const CLI::Option* const found = known.Find(name);
    if (found != nullptr && TakesValue(*found) && name.size() == word.size()) ++i;  // its value
    if (found != nullptr || (!word.starts_with("--") && IsAttached(word, known))) continue;
    Fail(ErrorCode::kUsage, "unknown option ", name, Why(name), NearestHint(name, known.names), "; see `", path,
         " --help`");
  }
}

std::string Sentence(const CLI::App& app, const CLI::ParseError& error) {
  std::string text = error.what();
  std::ranges::replace(text, '\n', ' ');
  constexpr std::string_view kConversion = "Could not convert: ";
  const size_t equals = text.find(" = ");
  if (text.starts_with(kConversion) && equals != text.npos) {
    const std::string name = text.substr(kConversion.size(), equals - kConversion.size());
    std::string type;
    for (const CLI::App* const verb : app.get_subcommands()) {
      const CLI::Option* const option = verb->get_option_no_throw(name);
      if (option != nullptr) type = option->get_type_name();
    }
    const std::string_view expected = type == "FLOAT"                   ? "a number"
                                      : type == "INT" || type == "UINT" ? "a whole number"
                                                                        : "understood";
    return name + ": \"" + text.substr(equals + 3) + "\" is not " + std::string(expected);
  }
  if (text.starts_with("--model is required")) return "MODEL is required";
  constexpr std::string_view kDash = "DASH: ";
  return text.starts_with(kDash) ? text.substr(kDash.size()) : text;
}

}  // namespace cambium::cli
