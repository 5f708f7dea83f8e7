#include "io/chat_template.h"

#include "cambium/error.h"
#include "io/jinja_ast.h"
#include "io/jinja_interpreter.h"

namespace cambium {

struct ChatTemplate::Parsed {
  jinja::Template tree;
};

ChatTemplate::ChatTemplate(const std::string& source) : parsed_(std::make_unique<Parsed>()) {
  parsed_->tree = jinja::Parse(source);
}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

std::string ChatTemplate::Render(const nlohmann::ordered_json& messages, bool add_generation_prompt,
                                 const nlohmann::ordered_json& extra) const {
  if (!extra.is_null() && !extra.is_object()) Fail(ErrorCode::kUsage, "chat template: the variables are not an object");
  std::vector<std::pair<std::string, jinja::Value>> globals;
  globals.emplace_back("messages", jinja::Value::FromJson(messages));
  globals.emplace_back("add_generation_prompt", add_generation_prompt);
  for (const auto& [name, value] : extra.items()) globals.emplace_back(name, jinja::Value::FromJson(value));
  for (const char* name : {"tools", "documents"}) {  // transformers always passes these
    if (extra.is_null() || !extra.contains(name)) globals.emplace_back(name, jinja::Value());
  }
  return jinja::Render(parsed_->tree, std::move(globals), {});
}

}  // namespace cambium
