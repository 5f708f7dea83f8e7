#pragma once

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <vector>

#include "cambium/cambium.h"
#include "server/fields.h"
#include "server/service.h"
#include "server/tool_calls.h"

namespace cambium::server {

inline constexpr int64_t kMostTokens = std::numeric_limits<int32_t>::max();  // that a request may name

// What all endpoints that generate ask for, and how the answer is to be written.
struct Ask {
  std::string id;     // "chatcmpl-..."
  std::string model;  // as the request called it
  int64_t created = 0;
  bool stream = false, include_usage = false, usage_everywhere = false;
  bool trace = false;                   // which drafter proposed which token
  bool progress = false;                // how far the prompts are read, in a stream
  bool timings = false;                 // llama.cpp's, in the answer or in every chunk
  double ping_seconds = 30;             // of silence in a stream
  int64_t choices = 1;                  // for each prompt
  int top_logprobs = -1;                // alternatives at each token; -1: no log-probabilities
  bool echo = false;                    // the prompt stands before each answer
  std::string prompt_field = "prompt";  // that the prompts come from
  std::vector<std::string> stop;
  ToolCallParser::Options parser;  // of its answers
  std::vector<std::vector<int32_t>> prompts;
  std::chrono::steady_clock::time_point arrived;

  size_t answers() const { return prompts.size() * static_cast<size_t>(choices); }
  size_t PromptOf(size_t answer) const { return answer / static_cast<size_t>(choices); }
};

// Reads the fields that the endpoints share into `ask` and into a request that is the pattern of all its generations:
// sampling, lengths, stop, drafts, grafts, streaming. Refuses by name what is out of range or would change the answer
// and cannot be honoured.
Request ReadAsk(const Fields& fields, const Service& service, Ask& ask);

// The most tokens of an answer, by whichever of these names a request has for it; -1 where it has none.
int64_t ReadMaxTokens(const Fields& fields, std::initializer_list<const char*> names, int64_t least);

// The model and the grafts that a request names.
std::vector<AdapterUse> ReadModel(const Fields& fields, const Service& service, std::string& name);

// Cuts the prompts as truncate_prompt_tokens and truncation_side say; -1: to what the context holds beside the answer.
void TruncatePrompts(const Fields& fields, const Request& pattern, const Service& service, Ask& ask);

// The requests of all answers, each with its prompt and seed. 400 with the counts where a prompt does not fit.
std::vector<Request> RequestsOf(const Ask& ask, const Request& pattern, const Service& service);

}  // namespace cambium::server
