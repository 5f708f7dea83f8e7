#include "cli/chat_settings.h"

#include <algorithm>
#include <memory>

#include "base/nearest.h"
#include "cli/option_table.h"
#include "io/json.h"

namespace cambium::cli {
namespace {

// Options of `generate` that a conversation under way cannot change, and why.
constexpr std::pair<const char*, const char*> kFixed[] = {{"model", "belongs to the loaded model"},
                                                          {"threads", "belongs to the loaded model"},
                                                          {"ctx-size", "belongs to the loaded model"},
                                                          {"exact", "belongs to the loaded model"},
                                                          {"kv-type", "belongs to the loaded model"},
                                                          {"prompt", "is what you type"},
                                                          {"file", "is what you type"},
                                                          {"ids", "is what you type"},
                                                          {"special", "is what you type"},
                                                          {"chat", "is always on here"},
                                                          {"jsonl", "is for files of records"},
                                                          {"output", "is for files of records"},
                                                          {"shard", "is for files of records"},
                                                          {"json", "is said where `run` is started"},
                                                          {"quiet", "is said where `run` is started"}};

std::vector<std::string> LongNames(const CLI::App& parser) {
  std::vector<std::string> names;
  for (const CLI::Option* const option : parser.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back(name);
  }
  return names;
}

CLI::Option* Find(CLI::App& parser, std::string_view name) {
  while (name.starts_with('-')) name.remove_prefix(1);
  const std::string bare(name);
  for (const std::string& spelled : {"--" + bare, "-" + bare}) {
    if (CLI::Option* const option = parser.get_option_no_throw(spelled); option != nullptr) return option;
  }
  for (const auto& [fixed, why] : kFixed) {
    if (bare == fixed) Fail(ErrorCode::kUsage, "--", bare, " ", why, "; /set does not change it");
  }
  Fail(ErrorCode::kUsage, "no option is called ", bare, NearestHint(bare, LongNames(parser)), "; /set lists them");
}

std::string NameOf(const CLI::Option& option) { return option.get_lnames().front(); }

}  // namespace

void AddAnswerOptions(CLI::App& verb, AnswerFlags& flags) {
  verb.add_option("--tools", flags.tools, "With a chat template: a file with a JSON list of tools for it");
  verb.add_flag("--show-draft", flags.show_draft, "Colour each token by who proposed it");
  AddGenerateOptions(verb, flags.generate);
  AddConstraint(verb, flags.constraint);
}

std::string ToolsOf(const std::string& path) {
  if (path.empty()) return "";
  const nlohmann::ordered_json tools = ParseOrderedJson(ReadTextFile(path), path);
  if (!tools.is_array() || tools.empty()) Fail(ErrorCode::kData, path, ": is no JSON list of tools");
  for (const auto& tool : tools) {
    if (!tool.is_object()) Fail(ErrorCode::kData, path, ": a tool is ", tool.dump(), ", expected an object");
  }
  return tools.dump();
}

ChatSettings::ChatSettings(Values values)
    : values_(std::move(values)), flags_(std::make_shared<AnswerFlags>()), parser_(std::make_shared<CLI::App>()) {
  parser_->set_help_flag();
  AddAnswerOptions(*parser_, *flags_);
  for (const auto& [name, given] : values_) {
    CLI::Option* const option = parser_->get_option_no_throw("--" + name);
    if (option == nullptr) continue;  // of `run` itself
    try {
      for (const std::string& value : given) option->add_result(value);
      option->run_callback();
    } catch (const CLI::Error& error) {
      Fail(ErrorCode::kUsage, "--", name, ": ", error.what());
    }
  }
  CheckedRequest(flags_->generate);
}

ChatSettings::ChatSettings(const CLI::App& given)
    : ChatSettings([&] {
        Values values;
        for (const CLI::Option* const option : given.get_options()) {
          if (option->count() > 0 && !option->get_lnames().empty()) values[NameOf(*option)] = option->results();
        }
        return values;
      }()) {}

std::string ChatSettings::ShowOption(const CLI::Option& option) {
  std::string values;
  for (const std::string& value : option.results()) values += (values.empty() ? "" : ", ") + value;
  if (option.count() > 0) return NameOf(option) + " = " + values;
  const std::string of_a_flag = NameOf(option) == "loop-guard" ? "true" : "false";
  const std::string& set = TakesValue(option) ? option.get_default_str() : of_a_flag;
  return NameOf(option) + (set.empty() ? " is not set" : " = " + set + " (the default)");
}

std::string ChatSettings::Show(const std::string& name) const { return ShowOption(*Find(*parser_, name)); }

std::string ChatSettings::List() const {
  std::string list;
  for (const CLI::Option* const option : parser_->get_options()) list += "  " + ShowOption(*option) + "\n";
  return list;
}

ChatSettings ChatSettings::With(const std::string& name, const std::string& value, bool add) const {
  const CLI::Option& option = *Find(*parser_, name);
  std::string_view bare = name;
  while (bare.starts_with('-')) bare.remove_prefix(1);
  Values values = values_;
  std::vector<std::string>& own = values[NameOf(option)];
  if (add && option.get_items_expected_max() <= 1)
    Fail(ErrorCode::kUsage, "/add ", name, ": it has one value; /set it");
  if (!add) own.clear();
  own.push_back(TakesValue(option) ? value : option.get_flag_value(std::string(bare), value));
  return ChatSettings(std::move(values));
}

ChatSettings ChatSettings::Without(const std::string& name) const {
  Values values = values_;
  values.erase(NameOf(*Find(*parser_, name)));
  return ChatSettings(std::move(values));
}

}  // namespace cambium::cli
