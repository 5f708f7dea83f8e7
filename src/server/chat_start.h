#pragma once

#include <functional>
#include <memory>
#include <string>

#include "server/constraint.h"
#include "server/exchange.h"

namespace cambium::server {

using MakeFormat = std::function<std::unique_ptr<AnswerFormat>(std::shared_ptr<const Ask> ask, const Model& model)>;

// How an API calls and writes the answer of a chat.
struct ChatApi {
  std::string id;
  const char* prompt_field;  // that the messages come from
  bool choices;              // whether there may be more than one
  MakeFormat make;
};

// Begins the answer to a body as /v1/chat/completions takes it. Other APIs bring theirs into that form.
void StartChat(Call& call, const Json& body, const ChatApi& api);

// The prompt of such a body.
std::vector<int32_t> ChatIds(const Json& body, const Service& service);

}  // namespace cambium::server
