#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "decode/scheduler.h"

// Requests on a scheduler of a test's own.
namespace cambium {

// planned: false takes every draft as it is proposed.
inline std::shared_ptr<DrafterSet> DraftersOf(std::vector<std::unique_ptr<Drafter>> members, bool planned = true) {
  return members.empty() ? nullptr : std::make_shared<DrafterSet>(std::move(members), planned);
}
inline std::shared_ptr<DrafterSet> DraftersOf(std::unique_ptr<Drafter> one, bool planned = true) {
  std::vector<std::unique_ptr<Drafter>> members;
  members.push_back(std::move(one));
  return DraftersOf(std::move(members), planned);
}

// Every sixteenth token of a tiny vocabulary.
inline std::vector<int32_t> EndTokens() {
  std::vector<int32_t> tokens;
  for (int32_t token = 7; token < 512; token += 16) tokens.push_back(token);
  return tokens;
}

// The answer to a request alone; throws what it failed with.
inline DecodeResult Answer(Transformer& model, KvCache& kv, DecodeRequest request,
                           const SchedulerOptions& options = {}) {
  Scheduler scheduler(model, kv, options);
  return RunToEnd(scheduler, std::move(request));
}

}  // namespace cambium
