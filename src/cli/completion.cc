#include <algorithm>
#include <map>
#include <memory>

#include "cli/option_table.h"
#include "cli/options.h"
#include "cli/verbs.h"

namespace cambium::cli {
namespace {

// The verbs that stand first on the command line, with the options and names of their own verbs folded in.
std::vector<VerbEntry> TopVerbs(const std::vector<VerbEntry>& table) {
  std::vector<VerbEntry> verbs;
  for (size_t i = 1; i < table.size(); ++i) {
    const size_t space = table[i].name.find(' ');
    if (space == std::string::npos) {
      verbs.push_back(table[i]);
      continue;
    }
    VerbEntry& parent = verbs.back();
    parent.options.push_back({{table[i].name.substr(space + 1)}, table[i].description, "", {}, false, false, false});
    parent.options.insert(parent.options.end(), table[i].options.begin(), table[i].options.end());
  }
  return verbs;
}

// What completes after a verb; a name occurs once.
std::map<std::string, const OptionEntry*> Words(const VerbEntry& verb) {
  std::map<std::string, const OptionEntry*> words;
  for (const OptionEntry& option : verb.options) {
    if (option.positional) continue;
    for (const std::string& name : option.names) words.emplace(name, &option);
  }
  return words;
}

// Inside single quotes of a shell.
std::string Escape(std::string_view text, std::string_view specials = "") {
  std::string out;
  for (const char c : text) {
    if (c == '\'') {
      out += "'\\''";
    } else {
      if (specials.find(c) != std::string_view::npos) out += '\\';
      out += c;
    }
  }
  return out;
}

std::string Joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

bool TakesModel(const VerbEntry& verb) {
  const auto is_model = [](const OptionEntry& option) { return std::ranges::count(option.names, "--model") > 0; };
  return std::ranges::any_of(verb.options, is_model) || verb.name == "rm";
}

// Names of options, values of the one before, cached models, directories with adapters, files.
std::string Bash(const std::vector<VerbEntry>& verbs) {
  std::string names, cases, values, models;
  for (const VerbEntry& verb : verbs) {
    names += (names.empty() ? "" : " ") + verb.name;
    if (TakesModel(verb)) models += (models.empty() ? "" : "|") + verb.name;
    std::string words;
    for (const auto& [word, option] : Words(verb)) {
      words += (words.empty() ? "" : " ") + word;
      if (option->values.empty()) continue;
      values += "    " + verb.name + ':' + word + ") words='" + Joined(option->values) + "' ;;\n";
    }
    cases += "    " + verb.name + ") words='" + words + "' ;;\n";
  }
  return "_cambium() {\n"
         "  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]} words=\n"
         "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
         "    COMPREPLY=($(compgen -W '" +
         names +
         " --help --version' -- \"$current\"))\n"
         "    return\n"
         "  fi\n"
         "  case $verb:$previous in\n" +
         values +
         "    *:--graft) words=$(compgen -G \"$current*/adapter_config.json\" | sed 's|/adapter_config.json$||') ;;\n"
         "    *:-m|*:--model) words=$(cambium list 2>/dev/null | cut -d' ' -f1) ;;\n"
         "  esac\n"
         "  if [ -n \"$words\" ]; then\n"
         "    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
         "    [ ${#COMPREPLY[@]} -gt 0 ] && return\n"
         "  fi\n"
         "  case $verb in\n" +
         cases +
         "  esac\n"
         "  if [[ $COMP_CWORD -eq 2 && $current != -* ]]; then\n"
         "    case $verb in " +
         models +
         ") words+=\" $(cambium list 2>/dev/null | cut -d' ' -f1)\" ;; esac\n"
         "  fi\n"
         "  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
         "  [[ $current == -* ]] || COMPREPLY+=($(compgen -f -- \"$current\"))\n"
         "}\n"
         "complete -o filenames -F _cambium cambium\n";
}

std::string Zsh(const std::vector<VerbEntry>& verbs) {
  std::string names, cases;
  for (const VerbEntry& verb : verbs) {
    names += "    '" + Escape(verb.name, ":") + ":" + Escape(verb.description) + "'\n";
    cases += "    " + verb.name + ")\n      _arguments \\\n";
    for (const auto& [word, option] : Words(verb)) {
      if (word[0] != '-') continue;
      cases += "        '" + word + "[" + Escape(option->description, "[]:\\") + "]" +
               (!option->takes_value                ? ""
                : !option->values.empty()           ? ":value:(" + Escape(Joined(option->values), ":") + ")"
                : word == "--model" || word == "-m" ? ":model:_cambium_models"
                                                    : ":value:_files") +
               "' \\\n";
    }
    if (TakesModel(verb)) cases += "        '1:model:_cambium_models' \\\n";
    cases += "        '*:file:_files' ;;\n";
  }
  return "#compdef cambium\n"
         "_cambium_models() {\n"
         "  local -a models\n"
         "  models=(${(f)\"$(cambium list 2>/dev/null | cut -d' ' -f1)\"})\n"
         "  compadd -a models\n"
         "  _files\n"
         "}\n"
         "_cambium() {\n"
         "  local -a verbs\n"
         "  verbs=(\n" +
         names +
         "  )\n"
         "  if (( CURRENT == 2 )); then\n"
         "    _describe verb verbs\n"
         "    return\n"
         "  fi\n"
         "  local verb=$words[2]\n"
         "  shift words\n"
         "  (( CURRENT-- ))\n"
         "  case $verb in\n" +
         cases +
         "  esac\n"
         "}\n"
         "if [ \"$funcstack[1]\" = _cambium ]; then _cambium \"$@\"; else compdef _cambium cambium; fi\n";
}

std::string Fish(const std::vector<VerbEntry>& verbs) {
  std::string script;
  for (const VerbEntry& verb : verbs) {
    script += "complete -c cambium -n __fish_use_subcommand -f -a " + verb.name + " -d '" +
              Escape(verb.description, "\\") + "'\n";
    for (const auto& [word, option] : Words(verb)) {
      const bool is_long = word.starts_with("--"), is_short = !is_long && word[0] == '-';
      script += "complete -c cambium -n '__fish_seen_subcommand_from " + verb.name + "' " +
                (is_long    ? "-l " + word.substr(2)
                 : is_short ? "-s " + word.substr(1)
                            : "-a " + word) +
                (option->takes_value ? " -r" : "") +
                (option->values.empty() ? "" : " -f -a '" + Escape(Joined(option->values), "\\") + "'") +
                (word == "--model" ? " -f -a '(cambium list 2>/dev/null | cut -d\" \" -f1)'" : "") + " -d '" +
                Escape(option->description, "\\") + "'\n";
    }
  }
  return script;
}

}  // namespace

void AddCompletion(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("completion", "Print the completions for a shell");
  struct Flags {
    OutputFlags output;
    std::string shell;
  };
  const auto flags = std::make_shared<Flags>();
  verb->add_option("SHELL", flags->shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  AddOutput(*verb, flags->output);
  verb->callback([flags, &app] {
    const std::vector<VerbEntry> verbs = TopVerbs(OptionTable(app));
    const std::string script = flags->shell == "bash" ? Bash(verbs) : flags->shell == "zsh" ? Zsh(verbs) : Fish(verbs);
    flags->output.json ? WriteJson({{"shell", flags->shell}, {"script", script}}) : Write(script);
  });
}

}  // namespace cambium::cli
