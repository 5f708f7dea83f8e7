#include "engine/impl.h"
#include "io/json.h"

namespace cambium {
namespace {

nlohmann::ordered_json ListOf(std::span<const Message> messages) {
  auto list = nlohmann::ordered_json::array();
  for (const Message& message : messages) list.push_back({{"role", message.role}, {"content", message.content}});
  return list;
}

nlohmann::ordered_json Parsed(std::string_view text, const char* what) {
  if (text.empty()) return {};
  try {
    return ParseOrderedJson(text, what);
  } catch (const Error& error) {
    throw Error(ErrorCode::kUsage, error.what());
  }
}

const DialogueEncoder& Dialogues(const Model::Impl& model) {
  if (!model.dialogues.has_template()) {
    Fail(ErrorCode::kUsage, model.path, ": the model has no chat template; use `generate`");
  }
  return model.dialogues;
}

DialogueOptions OptionsOf(const ChatOptions& options) {
  return {options.add_generation_prompt, Parsed(options.tools, "tools"), Parsed(options.variables, "variables")};
}

}  // namespace

std::string Model::ApplyTemplate(std::span<const Message> messages, const ChatOptions& options) const {
  return Dialogues(*impl_).Render(ListOf(messages), OptionsOf(options));
}

std::string Model::ApplyTemplate(std::string_view messages, const ChatOptions& options) const {
  return Dialogues(*impl_).Render(Parsed(messages, "messages"), OptionsOf(options));
}

bool Model::TemplateReads(std::string_view name, bool tools) const { return impl_->dialogues.Reads(name, tools); }

std::vector<int32_t> Model::TokenizeChat(std::span<const Message> messages, const ChatOptions& options) const {
  return Dialogues(*impl_).Ids(ListOf(messages), OptionsOf(options));
}

std::vector<int32_t> Model::TokenizeChat(std::string_view messages, const ChatOptions& options) const {
  return Dialogues(*impl_).Ids(Parsed(messages, "messages"), OptionsOf(options));
}

}  // namespace cambium
