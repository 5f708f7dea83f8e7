#include "server/chat_prompt.h"
#include "server/chat_start.h"
#include "server/endpoints.h"
#include "server/formats.h"
#include "server/ids.h"

namespace cambium::server {
namespace {

void ReadLength(const Fields& fields, Request& pattern) {
  const auto limit = fields.Whole("max_completion_tokens", 1, kMostTokens);
  const auto older = fields.Whole("max_tokens", 1, kMostTokens);
  if (limit && older && *limit != *older) Refuse("max_tokens", "max_tokens and max_completion_tokens differ");
  if (limit || older) pattern.max_tokens = limit ? *limit : *older;
}

void ReadLogprobs(const Fields& fields, Ask& ask) {
  const bool wanted = fields.Bool("logprobs").value_or(false);
  const int64_t top = fields.Whole("top_logprobs", 0, 20).value_or(0);
  if (top > 0 && !wanted) Refuse("top_logprobs", "top_logprobs needs logprobs to be true");
  if (wanted) ask.top_logprobs = static_cast<int>(top);
}

}  // namespace

std::vector<int32_t> ChatIds(const Json& body, const Service& service) {
  Request unused;
  const Fields fields(body);
  return IdsOf(ReadChat(fields, ReadForm(fields, service.model(), unused).tools, service.model()), service.model());
}

void StartChat(Call& call, const Json& body, const std::string& id, const MakeFormat& make) {
  const Fields fields(body);
  const auto ask = std::make_shared<Ask>();
  Request pattern = ReadAsk(fields, call.service, *ask);
  ReadLength(fields, pattern);
  ReadLogprobs(fields, *ask);
  pattern.top_logprobs = ask->top_logprobs;
  const AnswerForm form = ReadForm(fields, call.service.model(), pattern);
  const ChatPrompt chat = ReadChat(fields, form.tools, call.service.model());
  ask->id = id;
  ask->stop = pattern.stop;
  ask->parser = form.parser;
  ask->prompts = {IdsOf(chat, call.service.model())};
  const auto exchange = std::make_shared<Exchange>(call.service, call.reply, ask, make(ask, call.service.model()));
  exchange->Start(RequestsOf(*ask, pattern, call.service));
}

void Chat(Call& call) { StartChat(call, ParseBody(call.request.body), "chatcmpl-" + RandomHex(24), MakeChatFormat); }

}  // namespace cambium::server
