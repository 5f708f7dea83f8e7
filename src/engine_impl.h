#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/parallel.h"
#include "cambium/cambium.h"
#include "decode/generate.h"
#include "io/chat_template.h"
#include "io/tokenizer.h"
#include "model/transformer.h"

namespace cambium {

// What an Engine owns; this repository's tools and tests may look inside.
struct Engine::Impl {
  Impl(const std::string& model, const EngineOptions& options);

  std::string path;  // of the model, resolved
  EngineOptions options;
  ThreadPool pool;
  Transformer transformer;
  Tokenizer tokenizer;
  Compute compute;
  int64_t context;
  KvCache kv;
  DecodeState state;  // the one conversation whose keys and values stay cached between calls
  double load_ms = 0;

  // Grafts stay loaded by their "PATH=SCALE". Another choice of them ends the cached conversation. Returns how many tokens
  // fit behind their prefix. Declared before the drafters, which refer to the heads of some.
  std::map<std::string, std::vector<std::unique_ptr<Graft>>> grafts;
  int64_t UseGrafts(const std::vector<std::string>& specs);

  // The drafters of earlier requests stay, by their names and the grafts they ran with, of which some bring heads: a draft
  // model is loaded once, and what the planner learned is kept.
  std::map<std::pair<std::vector<std::string>, std::vector<Graft*>>, std::unique_ptr<Drafter>> drafters;
  Drafter* DrafterFor(const std::vector<std::string>& specs);
  DraftReport Report(const Drafter* drafter, const DraftCounters& counters) const;
  std::function<void(int32_t root, const Draft& draft, const Verdict& verdict)> on_verified;
};

}  // namespace cambium
