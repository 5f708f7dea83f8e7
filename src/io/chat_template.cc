#include "io/chat_template.h"

#include <set>

#include "cambium/error.h"
#include "io/jinja_ast.h"
#include "io/jinja_interpreter.h"

namespace cambium {

struct ChatTemplate::Parsed {
  jinja::Template tree;
  std::set<std::string, std::less<>> names;  // that the template may look up
};

ChatTemplate::ChatTemplate(const std::string& source) : parsed_(std::make_unique<Parsed>()) {
  parsed_->tree = jinja::Parse(source);
  for (const jinja::Node& node : parsed_->tree.nodes) {
    const bool name = node.kind == jinja::NodeKind::kName || node.kind == jinja::NodeKind::kAttribute;
    if (name) parsed_->names.insert(node.text);
    if (node.kind == jinja::NodeKind::kConst && node.value.IsString()) parsed_->names.insert(node.value.Text());
  }
}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

bool ChatTemplate::Reads(std::string_view name) const { return parsed_->names.contains(name); }

MarkedText ChatTemplate::Render(const Json& messages, bool add_generation_prompt, const Json& extra,
                                const Json& own) const {
  if (!extra.is_null() && !extra.is_object()) Fail(ErrorCode::kUsage, "chat template: the variables are not an object");
  std::vector<jinja::Value> list;
  for (size_t i = 0; i < messages.size(); ++i) {
    list.push_back(jinja::Value::FromMessage(messages[i], static_cast<int32_t>(i)));
  }
  std::vector<std::pair<std::string, jinja::Value>> globals;
  globals.emplace_back("messages", jinja::Value::MakeList(std::move(list)));
  globals.emplace_back("add_generation_prompt", add_generation_prompt);
  for (const auto& [name, value] : own.items()) globals.emplace_back(name, value.get<std::string>());
  for (const auto& [name, value] : extra.items()) {
    globals.emplace_back(name, jinja::Value::FromJson(value, TextMark::kData));
  }
  for (const char* name : {"tools", "documents"}) {  // transformers always passes these
    if (extra.is_null() || !extra.contains(name)) globals.emplace_back(name, jinja::Value());
  }
  return jinja::Render(parsed_->tree, std::move(globals), {});
}

}  // namespace cambium
