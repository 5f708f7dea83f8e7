#include <fmt/format.h>

#include "server/constraint.h"
#include "server/endpoints.h"
#include "server/exchange.h"
#include "server/formats.h"
#include "server/ids.h"
#include "server/prompts.h"

namespace cambium::server {
namespace {

constexpr int64_t kUsualTokens = 16;  // OpenAI's, where a request does not say
constexpr size_t kMostAnswers = 1024;

void ReadLogprobs(const Fields& fields, Ask& ask) {
  const Json* const given = fields.Find("logprobs");
  if (given == nullptr || *given == false) return;
  ask.top_logprobs = static_cast<int>(*fields.Whole("logprobs", 0, 20));
}

}  // namespace

void Completions(Call& call) {
  const Json body = ParseBody(call.request.body);
  const Fields fields(body);
  const auto ask = std::make_shared<Ask>();
  Request pattern = ReadAsk(fields, call.service, *ask);
  const int64_t most = ReadMaxTokens(fields, {"max_tokens", "n_predict"}, 0);
  pattern.max_tokens = most < 0 ? kUsualTokens : most;
  ReadLogprobs(fields, *ask);
  pattern.top_logprobs = ask->top_logprobs;
  pattern.constraint = ReadConstraint(fields, call.service.model());
  ask->echo = fields.Bool("echo").value_or(false);
  if (ask->echo) pattern.prompt_logprobs = ask->top_logprobs;
  if (ask->echo && ask->stream && ask->top_logprobs >= 0) pattern.progress = true;  // they come with the prompt
  ask->id = "cmpl-" + RandomHex(24);
  ask->prompts = ReadPrompts(fields, "prompt", call.service.model(), true);
  TruncatePrompts(fields, pattern, call.service, *ask);
  if (ask->answers() > kMostAnswers) {
    Refuse("prompt", fmt::format("{} prompts with n = {} make more than {} answers", ask->prompts.size(), ask->choices,
                                 kMostAnswers));
  }
  const auto exchange =
      std::make_shared<Exchange>(call.service, call.reply, ask, MakeCompletionFormat(ask, call.service.model()));
  exchange->Start(RequestsOf(*ask, pattern, call.service));
}

}  // namespace cambium::server
