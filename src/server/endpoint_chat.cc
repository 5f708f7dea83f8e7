#include "server/chat_prompt.h"
#include "server/chat_start.h"
#include "server/endpoints.h"
#include "server/formats.h"
#include "server/ids.h"

namespace cambium::server {
namespace {

void ReadLogprobs(const Fields& fields, Ask& ask) {
  const bool wanted = fields.Bool("logprobs").value_or(false);
  const int64_t top = fields.Whole("top_logprobs", 0, 20).value_or(0);
  if (top > 0 && !wanted) Refuse("top_logprobs", "top_logprobs needs logprobs to be true");
  if (wanted) ask.top_logprobs = static_cast<int>(top);
}

}  // namespace

std::vector<int32_t> ChatIds(const Json& body, const Service& service) {
  const Fields fields(body);
  return IdsOf(ReadChat(fields, OfferedTools(fields), service.model()), service.model());
}

void StartChat(Call& call, const Json& body, const ChatApi& api) {
  const Fields fields(body);
  const auto ask = std::make_shared<Ask>();
  Request pattern = ReadAsk(fields, call.service, *ask);
  if (ask->choices > 1 && !api.choices) Refuse("n", "n is above 1, but this API has one answer");
  if (!api.choices && (ask->progress || ask->timings)) {
    Refuse(ask->progress ? "return_progress" : "timings_per_token", "this API has no field for it");
  }
  if (fields.Bool("echo").value_or(false)) Refuse("echo", "echo is not supported for chats");
  pattern.max_tokens = ReadMaxTokens(fields, {"max_completion_tokens", "max_tokens", "n_predict"}, 1);
  ReadLogprobs(fields, *ask);
  pattern.top_logprobs = ask->top_logprobs;
  pattern.prompt = IdsOf(ReadChat(fields, OfferedTools(fields), call.service.model()), call.service.model());
  ask->id = api.id;
  ask->prompt_field = api.prompt_field;
  ask->stop = pattern.stop;
  ask->parser = ReadForm(fields, call.service.model(), pattern).parser;
  ask->prompts = {pattern.prompt};
  TruncatePrompts(fields, pattern, call.service, *ask);
  const auto exchange = std::make_shared<Exchange>(call.service, call.reply, ask, api.make(ask, call.service.model()));
  exchange->Start(RequestsOf(*ask, pattern, call.service));
}

void Chat(Call& call) {
  StartChat(call, ParseBody(call.request.body), {"chatcmpl-" + RandomHex(24), "messages", true, MakeChatFormat});
}

}  // namespace cambium::server
