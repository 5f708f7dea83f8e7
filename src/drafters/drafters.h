#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "decode/drafter.h"
#include "io/tokenizer.h"
#include "model/transformer.h"

namespace cambium {

// "NAME" or "NAME:key=value,key=value" as --draft takes it.
struct DrafterSpec {
  std::string name;
  std::map<std::string, std::string> options;
};
// kUsage naming the text where it is malformed.
DrafterSpec ParseDrafterSpec(const std::string& text);

// kUsage naming the spec that names no drafter or no option of it; reads no file.
void CheckDrafters(const std::vector<std::string>& specs);

// What drafters are made from: the target they run ahead of.
struct DrafterTarget {
  Transformer& transformer;
  KvCache& kv;
  const Tokenizer& tokenizer;
  Compute compute;
  int64_t context;                 // most tokens that a sequence may hold
  std::span<Graft* const> grafts;  // of the requests that are drafted for: some bring heads

  // What may be proposed: the target's rows that are tokens of text.
  int64_t tokens() const { return std::min<int64_t>(tokenizer.text_size(), transformer.config().vocab); }
};

// The list of drafters: one line each in drafters.cc.
using MakeDrafterFunction = std::unique_ptr<Drafter> (*)(const DrafterSpec& spec, const DrafterTarget& target);
struct DrafterEntry {
  const char* name;
  const char* options;  // the keys it takes, comma separated, for errors and help
  const char* help;
  MakeDrafterFunction make;
};
const std::vector<DrafterEntry>& DrafterList();

// The drafters that --draft asks for; "auto" (and no spec at all) stands for what needs no options and no training: ngram
// and recycle, and for the heads that the request's grafts bring, or else the model itself.
// None for {"none"}. kUsage for an unknown drafter or option.
std::vector<std::unique_ptr<Drafter>> MakeDrafters(const std::vector<std::string>& specs, const DrafterTarget& target);

// Reads options of a spec, by key; kUsage naming drafter, key and value where they are not as expected.
int64_t IntOption(const DrafterSpec& spec, const std::string& key, int64_t fallback, int64_t low, int64_t high);
std::string TextOption(const DrafterSpec& spec, const std::string& key, const std::string& fallback);

std::unique_ptr<Drafter> MakeGrammarDrafter(const DrafterSpec& spec, const DrafterTarget& target);
std::unique_ptr<Drafter> MakeNgramDrafter(const DrafterSpec& spec, const DrafterTarget& target);
std::unique_ptr<Drafter> MakeRecycleDrafter(const DrafterSpec& spec, const DrafterTarget& target);
std::unique_ptr<Drafter> MakeCorpusDrafter(const DrafterSpec& spec, const DrafterTarget& target);
std::unique_ptr<Drafter> MakeModelDrafter(const DrafterSpec& spec, const DrafterTarget& target);
std::unique_ptr<Drafter> MakeExitDrafter(const DrafterSpec& spec, const DrafterTarget& target);
// Heads of the spec's kind: those at its option `path` (null: not given; kData if there are none), and those that a graft
// of the request brings (null: none does).
std::unique_ptr<Graft> LoadHeads(const DrafterSpec& spec, const DrafterTarget& target);
Heads* CarriedHeads(const DrafterSpec& spec, const DrafterTarget& target);
std::unique_ptr<Drafter> MakeHeadsDrafter(const DrafterSpec& spec, const DrafterTarget& target);  // medusa and mtp

}  // namespace cambium
