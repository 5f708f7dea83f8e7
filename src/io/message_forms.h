#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace cambium {

// Messages come in forms that not every template takes.

// The text of a content: a string, or a list of {"type": "text", "text"}; empty where there is none. `where` names it.
std::string ContentText(const nlohmann::ordered_json& message, const std::string& where);

// kData, naming the message, for one that is no object, has no role, or a content that is no text.
void CheckMessages(const nlohmann::ordered_json& messages);

// The same messages with lists of texts joined.
nlohmann::ordered_json WithTextContents(nlohmann::ordered_json messages);

// Messages whose tool calls have their arguments, which OpenAI's API writes as a JSON text, as objects. False where
// there is nothing to change.
bool ParseArguments(nlohmann::ordered_json& messages);

}  // namespace cambium
