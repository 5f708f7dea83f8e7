#include "drafters/drafters.h"

#include <charconv>

#include "model/heads.h"

namespace cambium {

const std::vector<DrafterEntry>& DrafterList() {
  static const std::vector<DrafterEntry> kList = {
      {"grammar", "max", "what the request's constraint forces", MakeGrammarDrafter},
      {"ngram", "max,min,shared", "looks the last tokens up in the request's own text", MakeNgramDrafter},
      {"recycle", "max,shared", "what the target itself thought likely after the same tokens", MakeRecycleDrafter},
      {"corpus", "index,max", "looks them up in an index that `cambium corpus build` made", MakeCorpusDrafter},
      {"model", "path,max,width", "a smaller model of the same vocabulary", MakeModelDrafter},
      {"exit", "layer,path,max,width", "the target's own first layers", MakeExitDrafter},
      {"medusa", "path,tree,max,width,nodes", "Medusa heads", MakeHeadsDrafter},
      {"mtp", "path,tree,max,width,nodes", "multi-token prediction", MakeHeadsDrafter},
  };
  return kList;
}

DrafterSpec ParseDrafterSpec(const std::string& text) {
  DrafterSpec spec;
  const size_t colon = text.find(':');
  spec.name = text.substr(0, colon);
  if (spec.name.empty()) Fail(ErrorCode::kUsage, "--draft \"", text, "\": a drafter's name is missing");
  if (colon == std::string::npos) return spec;
  size_t begin = colon + 1;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string item = text.substr(begin, end - begin);
    const size_t equals = item.find('=');
    if (equals == std::string::npos || equals == 0) {
      Fail(ErrorCode::kUsage, "--draft \"", text, "\": \"", item, "\" is not key=value");
    }
    spec.options[item.substr(0, equals)] = item.substr(equals + 1);
    begin = end + 1;
  }
  return spec;
}

int64_t IntOption(const DrafterSpec& spec, const std::string& key, int64_t fallback, int64_t low, int64_t high) {
  const auto found = spec.options.find(key);
  if (found == spec.options.end()) return fallback;
  int64_t value = 0;
  const std::string& text = found->second;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
    Fail(ErrorCode::kUsage, "--draft ", spec.name, ": ", key, " is \"", text, "\", expected ", low, " to ", high);
  }
  return value;
}

std::string TextOption(const DrafterSpec& spec, const std::string& key, const std::string& fallback) {
  const auto found = spec.options.find(key);
  return found == spec.options.end() ? fallback : found->second;
}

namespace {

// The drafter that a spec names, which knows its options.
const DrafterEntry& EntryOf(const std::string& text, const DrafterSpec& spec) {
  const DrafterEntry* entry = nullptr;
  std::string names = "auto, none";
  for (const DrafterEntry& known : DrafterList()) {
    names += std::string(", ") + known.name;
    if (spec.name == known.name) entry = &known;
  }
  if (entry == nullptr) Fail(ErrorCode::kUsage, "--draft \"", text, "\": no such drafter; there are ", names);
  for (const auto& [key, value] : spec.options) {
    if ((std::string(",") + entry->options + ",").find("," + key + ",") == std::string::npos) {
      Fail(ErrorCode::kUsage, "--draft ", spec.name, ": unknown option \"", key, "\"; there are ", entry->options);
    }
  }
  return *entry;
}

}  // namespace

void CheckDrafters(const std::vector<std::string>& specs) {
  for (const std::string& text : specs) {
    const DrafterSpec spec = ParseDrafterSpec(text);
    if (spec.name == "none" && specs.size() > 1) Fail(ErrorCode::kUsage, "--draft none stands alone");
    if (text != "auto" && spec.name != "none") EntryOf(text, spec);
  }
}

std::vector<std::unique_ptr<Drafter>> MakeDrafters(const std::vector<std::string>& specs, const DrafterTarget& target) {
  std::vector<std::unique_ptr<Drafter>> members;
  std::vector<std::string> asked;
  for (const std::string& text : specs.empty() ? std::vector<std::string>{"auto"} : specs) {
    if (text == "auto") {
      asked.insert(asked.end(), {"ngram", "recycle"});
      const size_t untrained = asked.size();
      for (Graft* graft : target.grafts) {
        if (graft->heads() != nullptr) asked.push_back(graft->kind());
      }
      if (asked.size() == untrained && !target.transformer.weights().mtp_source.empty()) asked.push_back("mtp");
    } else {
      asked.push_back(text);
    }
  }
  for (const std::string& text : asked) {
    const DrafterSpec spec = ParseDrafterSpec(text);
    if (spec.name == "none") {
      if (specs.size() > 1) Fail(ErrorCode::kUsage, "--draft none stands alone");
      return {};
    }
    members.push_back(EntryOf(text, spec).make(spec, target));
  }
  return members;
}

}  // namespace cambium
