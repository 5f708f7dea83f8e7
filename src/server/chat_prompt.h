#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/fields.h"
#include "server/service.h"

namespace cambium::server {

// Messages as a prompt.
struct ChatPrompt {
  Json messages;        // as templates take them: contents are texts
  std::string prefill;  // the beginning of the answer, which the last message gave
  ChatOptions options;
};

// Reads messages, add_generation_prompt, continue_final_message, chat_template_kwargs and reasoning_effort. An
// assistant's message that comes last is the beginning of the answer. A template that does not know tools is told of
// them in the system's message.
ChatPrompt ReadChat(const Fields& fields, const Json& tools, const Model& model);

std::vector<int32_t> IdsOf(const ChatPrompt& chat, const Model& model);
std::string TextOf(const ChatPrompt& chat, const Model& model);

}  // namespace cambium::server
