#include "train/record_fields.h"

#include <algorithm>

#include "cambium/error.h"
#include "io/json.h"

namespace cambium {
namespace {

using Json = RecordJson;

constexpr std::string_view kHarmless[] = {"id",
                                          "uid",
                                          "uuid",
                                          "guid",
                                          "idx",
                                          "index",
                                          "row",
                                          "row_id",
                                          "key",
                                          "hash",
                                          "sha256",
                                          "md5",
                                          "source",
                                          "sources",
                                          "origin",
                                          "dataset",
                                          "dataset_name",
                                          "subset",
                                          "split",
                                          "config",
                                          "metadata",
                                          "meta",
                                          "info",
                                          "category",
                                          "categories",
                                          "topic",
                                          "topics",
                                          "subject",
                                          "domain",
                                          "task",
                                          "task_type",
                                          "task_id",
                                          "tag",
                                          "tags",
                                          "keywords",
                                          "lang",
                                          "language",
                                          "locale",
                                          "license",
                                          "url",
                                          "title",
                                          "author",
                                          "model",
                                          "model_name",
                                          "generator",
                                          "teacher",
                                          "provider",
                                          "created",
                                          "created_at",
                                          "updated_at",
                                          "timestamp",
                                          "date",
                                          "time",
                                          "version",
                                          "checksum",
                                          "length",
                                          "len",
                                          "num_tokens",
                                          "token_count",
                                          "tokens",
                                          "num_turns",
                                          "n_turns",
                                          "turn",
                                          "score",
                                          "scores",
                                          "rating",
                                          "ratings",
                                          "quality",
                                          "difficulty",
                                          "toxicity",
                                          "redacted",
                                          "seed",
                                          "note",
                                          "notes",
                                          "comment",
                                          "comments",
                                          "annotator",
                                          "conv_id",
                                          "session_id",
                                          "conversation_id",
                                          "user_id",
                                          "message_id",
                                          "prompt_id",
                                          "question_id",
                                          "sample_id",
                                          "example_id",
                                          "request_id",
                                          "thread_id",
                                          "parent_id",
                                          "instruction_id",
                                          "record_id",
                                          "name",
                                          "tool_call_id",
                                          "status",
                                          "cache_control",
                                          "annotations",
                                          "parallel_tool_calls"};

struct Format {
  std::string_view name;
  std::initializer_list<std::string_view> fields;
};
// `prompt` and `text` repeat in some collections what stands in messages, instruction or prompt.
const Format kFormats[] = {
    {"chat", {"messages", "tools", "functions", "system", "documents", "chat_template_kwargs", "prompt", "text"}},
    {"sharegpt", {"conversations", "tools", "functions", "system", "text"}},
    {"alpaca", {"instruction", "input", "output", "system", "history", "text"}},
    {"completions", {"prompt", "completion", "system", "tools", "functions", "chat_template_kwargs", "text"}},
    {"text", {"text"}},
    {"ids", {"input_ids", "labels", "attention_mask", "answer", "distilled"}}};

}  // namespace

bool IsHarmlessField(std::string_view name) {
  return name.starts_with('_') || std::find(std::begin(kHarmless), std::end(kHarmless), name) != std::end(kHarmless);
}

bool IsFieldOf(std::string_view format, std::string_view name) {
  return std::any_of(std::begin(kFormats), std::end(kFormats), [&](const Format& own) {
    return own.name == format && std::find(own.fields.begin(), own.fields.end(), name) != own.fields.end();
  });
}

const Json* FieldOf(const Json& record, const char* key) {
  const auto found = record.find(key);
  return found == record.end() || found->is_null() ? nullptr : &*found;
}

const std::string& TextField(const Json& record, const char* key) {
  const auto found = record.find(key);
  if (found == record.end()) Fail(ErrorCode::kData, "field \"", key, "\" is missing");
  if (!found->is_string()) Fail(ErrorCode::kData, "field \"", key, "\" is ", found->type_name(), ", expected string");
  return found->get_ref<const std::string&>();
}

std::string OptionalText(const Json& record, const char* key) {
  return FieldOf(record, key) == nullptr ? std::string() : TextField(record, key);
}

const Json& ListField(const Json& record, const char* key) {
  const auto found = record.find(key);
  if (found == record.end()) Fail(ErrorCode::kData, "field \"", key, "\" is missing");
  if (!found->is_array()) Fail(ErrorCode::kData, "field \"", key, "\" is ", found->type_name(), ", expected array");
  if (found->empty()) Fail(ErrorCode::kData, "field \"", key, "\" is empty");
  return *found;
}

Json ParsedField(const Json& value, const std::string& name) {
  if (!value.is_string()) return value;
  const std::string& text = value.get_ref<const std::string&>();
  if (text.find_first_not_of(" \t\r\n") == text.npos) return nullptr;
  try {
    return ParseOrderedJson(text, "JSON");
  } catch (const Error& error) {
    Fail(ErrorCode::kData, name, " is a text that is no JSON: ", error.what());
  }
}

Json ToolsOf(const Json& value, const std::string& name, bool wrap) {
  Json list = ParsedField(value, name);
  if (list.is_object()) list = Json::array({list});
  if (list.is_null() || (list.is_array() && list.empty())) return nullptr;
  if (!list.is_array()) Fail(ErrorCode::kData, name, " is ", list.type_name(), ", expected array");
  Json tools = Json::array();
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string place = name + "[" + std::to_string(i) + "]";
    Json tool = ParsedField(list[i], place);
    if (!tool.is_object()) Fail(ErrorCode::kData, place, " is ", tool.type_name(), ", expected object");
    const bool bare = tool.contains("name") && !tool.contains("function");
    if (wrap && bare) tool = {{"type", "function"}, {"function", std::move(tool)}};
    tools.push_back(std::move(tool));
  }
  return tools;
}

Json CallsOf(const Json& value, const std::string& name) {
  Json calls = ToolsOf(value, name, true);
  if (calls.is_null()) Fail(ErrorCode::kData, name, " holds no call");
  for (const Json& call : calls) {
    const Json* function = FieldOf(call, "function");
    if (function == nullptr || !function->is_object() || FieldOf(*function, "name") == nullptr) {
      Fail(ErrorCode::kData, name, " holds a call without a name");
    }
  }
  return calls;
}

bool TakeLearned(Json& message, const std::string& where) {
  bool learned = true, given = false;
  for (const char* key : {"weight", "train"}) {
    const auto found = message.find(key);
    if (found == message.end()) continue;
    const Json value = *found;
    message.erase(found);
    if (value.is_null()) continue;
    const bool yes = value.is_boolean() ? value.get<bool>() : value.is_number() && value == 1;
    if (!value.is_boolean() && !(value.is_number() && (value == 0 || value == 1))) {
      Fail(ErrorCode::kData, where, ".", key, " is ", value.dump().substr(0, 40), ", expected 0, 1, true or false");
    }
    learned = learned && yes;
    given = true;
  }
  if (given && learned && message.value("role", Json()) != "assistant") {
    Fail(ErrorCode::kData, where, " asks to be trained, only the assistant's messages are");
  }
  return learned;
}

}  // namespace cambium
