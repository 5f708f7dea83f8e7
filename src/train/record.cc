#include "train/record.h"

#include <algorithm>

#include "cambium/error.h"
#include "io/message_forms.h"
#include "train/record_fields.h"

namespace cambium {
namespace {

using Json = nlohmann::ordered_json;

Json Message(const char* role, std::string content) { return {{"role", role}, {"content", std::move(content)}}; }

std::string RoleOfShareGpt(const std::string& from) {
  static constexpr std::pair<const char*, const char*> kRoles[] = {{"human", "user"},
                                                                   {"user", "user"},
                                                                   {"gpt", "assistant"},
                                                                   {"assistant", "assistant"},
                                                                   {"model", "assistant"},
                                                                   {"chatgpt", "assistant"},
                                                                   {"bing", "assistant"},
                                                                   {"bard", "assistant"},
                                                                   {"function_call", "assistant"},
                                                                   {"tool_call", "assistant"},
                                                                   {"system", "system"},
                                                                   {"tool", "tool"},
                                                                   {"observation", "tool"},
                                                                   {"function_response", "tool"},
                                                                   {"tool_response", "tool"},
                                                                   {"function", "tool"}};
  for (const auto& [name, role] : kRoles) {
    if (from == name) return role;
  }
  Fail(ErrorCode::kData, "field \"from\" is \"", from.substr(0, 60),
       "\", expected human, gpt, system, function_call, tool or observation");
}

// {"from", "value"}, or already {"role", "content"}.
Json MessageOfShareGpt(const Json& turn) {
  if (!turn.is_object())
    Fail(ErrorCode::kData, "a turn of \"conversations\" is ", turn.type_name(), ", expected object");
  if (!turn.contains("from") && turn.contains("role")) return turn;
  const std::string& from = TextField(turn, "from");
  Json message = {{"role", RoleOfShareGpt(from)}};
  const std::string& value = TextField(turn, "value");
  if (from == "function_call" || from == "tool_call") {
    message["content"] = "";
    message["tool_calls"] = CallsOf(value, "the value of a " + from);
  } else {
    message["content"] = value;
  }
  for (const auto& [key, item] : turn.items()) {
    if (key != "from" && key != "value") message[key] = item;
  }
  return message;
}

// OpenAI's older form of a call and its result.
void ModernizeCall(Json& message) {
  if (message["role"] == "function") message["role"] = "tool";
  const Json* call = FieldOf(message, "function_call");
  if (call == nullptr) return;
  Json calls = CallsOf(*call, "function_call");
  message.erase("function_call");
  message["tool_calls"] = std::move(calls);
}

}  // namespace

bool RecordReader::Ignored(std::string_view field) const {
  return std::find(ignored_.begin(), ignored_.end(), field) != ignored_.end();
}

std::string RecordReader::FormatOf(const Json& record) const {
  if (format_ != "auto") return format_;
  constexpr std::pair<const char*, const char*> kKeys[] = {{"messages", "chat"},      {"conversations", "sharegpt"},
                                                           {"input_ids", "ids"},      {"instruction", "alpaca"},
                                                           {"prompt", "completions"}, {"text", "text"}};
  for (const auto& [key, format] : kKeys) {
    if (record.contains(key)) return format;
  }
  std::string keys;
  for (const auto& item : record.items()) keys += (keys.empty() ? "" : ", ") + item.key().substr(0, 40);
  Fail(ErrorCode::kData, "no field messages, conversations, input_ids, instruction, prompt or text; found ",
       keys.empty() ? "none" : keys);
}

void RecordReader::CheckFields(const Json& record, const std::string& format) const {
  const auto of_another = [&](const std::string& key) {  // which the caller did not ask for
    return format_ != "auto" && (IsFieldOf("chat", key) || IsFieldOf("alpaca", key) || IsFieldOf("ids", key) ||
                                 key == "conversations" || key == "completion");
  };
  for (const auto& [key, value] : record.items()) {
    if (value.is_null() || IsFieldOf(format, key) || IsHarmlessField(key) || Ignored(key) || of_another(key)) continue;
    Fail(ErrorCode::kData, "field \"", key.substr(0, 60), "\" is not one that ", format,
         " data is known to have; if it changes nothing, name it in --ignore-fields");
  }
}

Record RecordReader::Read(const Json& record, bool with_answer) const {
  if (!record.is_object()) Fail(ErrorCode::kData, "a record is ", record.type_name(), ", expected object");
  const std::string format = FormatOf(record);
  CheckFields(record, format);
  if (format == "chat") return Chat(record);
  if (format == "sharegpt") return ShareGpt(record);
  if (format == "alpaca") return Alpaca(record, with_answer);
  if (format == "completions") return Completion(record, with_answer);
  Record out{};
  if (format == "text") {
    out.kind = Record::Kind::kText;
    out.answer = TextField(record, "text");
    return out;
  }
  if (format != "ids") {
    Fail(ErrorCode::kUsage, "format is \"", format,
         "\", expected auto, chat, completions, text, alpaca, sharegpt, ids or plain");
  }
  out.kind = Record::Kind::kIds;
  out.ids = ListField(record, "input_ids");
  if (const Json* labels = FieldOf(record, "labels")) out.labels = *labels;
  if (const Json* mask = FieldOf(record, "attention_mask")) {
    const bool whole = mask->is_array() && mask->size() == out.ids.size() &&
                       std::all_of(mask->begin(), mask->end(), [](const Json& one) { return one == 1; });
    if (!whole) Fail(ErrorCode::kData, "field \"attention_mask\" masks tokens; give the ids without padding");
  }
  return out;
}

Record RecordReader::Chat(const Json& record) const {
  Record out{};
  out.kind = Record::Kind::kDialogue;
  out.messages = ListField(record, "messages");
  TakeTools(record, false, out);
  TakeSystem(record, out);
  FinishMessages(out);
  return out;
}

Record RecordReader::ShareGpt(const Json& record) const {
  Record out{};
  out.kind = Record::Kind::kDialogue;
  out.messages = Json::array();
  for (const Json& turn : ListField(record, "conversations")) out.messages.push_back(MessageOfShareGpt(turn));
  TakeTools(record, true, out);
  TakeSystem(record, out);
  FinishMessages(out);
  return out;
}

Record RecordReader::Alpaca(const Json& record, bool with_answer) const {
  Record out{};
  out.kind = Record::Kind::kPair;
  out.messages = Json::array();
  if (const Json* history = FieldOf(record, "history")) {
    if (!history->is_array()) Fail(ErrorCode::kData, "field \"history\" is ", history->type_name(), ", expected array");
    for (const Json& turn : *history) {
      if (!turn.is_array() || turn.size() != 2 || !turn[0].is_string() || !turn[1].is_string()) {
        Fail(ErrorCode::kData, "field \"history\" holds a turn that is no pair of strings");
      }
      out.messages.push_back(Message("user", turn[0]));
      out.messages.push_back(Message("assistant", turn[1]));
    }
  }
  std::string prompt = TextField(record, "instruction");
  if (const std::string input = OptionalText(record, "input"); !input.empty()) prompt += "\n\n" + input;
  out.messages.push_back(Message("user", prompt));
  TakeSystem(record, out);
  for (const Json& message : out.messages) out.prompt += message["content"].get_ref<const std::string&>() + "\n\n";
  if (prompt.empty()) out.prompt.clear();
  if (with_answer) out.answer = TextField(record, "output");
  out.messages.push_back(Message("assistant", out.answer));
  FinishMessages(out);
  return out;
}

Record RecordReader::Completion(const Json& record, bool with_answer) const {
  if (FieldOf(record, "prompt") != nullptr && record["prompt"].is_array()) return TrlPair(record, with_answer);
  Record out{};
  out.kind = Record::Kind::kPair;
  out.prompt = TextField(record, "prompt");
  if (with_answer) out.answer = TextField(record, "completion");
  out.messages = Json::array({Message("user", out.prompt), Message("assistant", out.answer)});
  TakeTools(record, false, out);
  TakeSystem(record, out);
  if (out.messages.size() > 2) out.prompt = out.messages[0]["content"].get<std::string>() + "\n\n" + out.prompt;
  FinishMessages(out);
  return out;
}

// TRL's prompt and completion as lists of messages: only the completion is trained.
Record RecordReader::TrlPair(const Json& record, bool with_answer) const {
  Record out{};
  out.kind = Record::Kind::kDialogue;
  out.messages = ListField(record, "prompt");
  const size_t prompt = out.messages.size();
  if (with_answer) {
    for (const Json& message : ListField(record, "completion")) out.messages.push_back(message);
  }
  const size_t answer = out.messages.size() - prompt;
  TakeTools(record, false, out);
  TakeSystem(record, out);
  FinishMessages(out);
  std::fill(out.learned.begin(), out.learned.end() - static_cast<std::ptrdiff_t>(answer), uint8_t{0});
  return out;
}

void RecordReader::TakeTools(const Json& record, bool wrap, Record& out) const {
  for (const char* key : {"tools", "functions"}) {
    const Json* tools = FieldOf(record, key);
    if (tools == nullptr || Ignored(key)) continue;
    Json list = ToolsOf(*tools, std::string("field \"") + key + "\"", wrap || std::string_view(key) == "functions");
    if (list.is_null()) continue;
    if (!out.options.tools.is_null()) Fail(ErrorCode::kData, "both \"tools\" and \"functions\" are given");
    if (dialogues_.has_template() && !dialogues_.Reads("tools", true)) {
      Fail(ErrorCode::kData, "field \"", key, "\": the model's chat template has no place for tools; --ignore-fields ",
           key, " goes on without");
    }
    out.options.tools = std::move(list);
  }
  if (const Json* variables = FieldOf(record, "chat_template_kwargs")) {
    if (!variables->is_object()) {
      Fail(ErrorCode::kData, "field \"chat_template_kwargs\" is ", variables->type_name(), ", expected object");
    }
    out.options.variables = *variables;
  }
  if (const Json* documents = FieldOf(record, "documents")) {
    if (dialogues_.has_template() && !dialogues_.Reads("documents", !out.options.tools.empty())) {
      Fail(ErrorCode::kData, "field \"documents\": the model's chat template has no place for documents");
    }
    if (out.options.variables.is_null()) out.options.variables = Json::object();
    out.options.variables["documents"] = *documents;
  }
}

void RecordReader::TakeSystem(const Json& record, Record& out) const {
  if (Ignored("system")) return;
  const std::string system = OptionalText(record, "system");
  if (system.empty()) return;
  const Json& first = out.messages.front();
  if (first.is_object() && first.value("role", Json()) == "system") {
    Fail(ErrorCode::kData, "both \"system\" and a message of the system are given");
  }
  out.messages.insert(out.messages.begin(), Message("system", system));
}

void RecordReader::FinishMessages(Record& out) const {
  CheckMessages(out.messages);
  for (size_t i = 0; i < out.messages.size(); ++i) {
    Json& message = out.messages[i];
    const std::string where = "messages[" + std::to_string(i) + "]";
    ModernizeCall(message);
    out.learned.push_back(TakeLearned(message, where));
    const Json* calls = FieldOf(message, "tool_calls");
    if (calls != nullptr && !calls->is_array()) {
      Fail(ErrorCode::kData, where, ".tool_calls is ", calls->type_name(), ", expected array");
    }
    if (calls == nullptr || calls->empty()) {
      message.erase("tool_calls");
      if (!message.contains("content")) TextField(message, "content");
      if (message["content"].is_null()) TextField(message, "content");
    }
    CheckMessageFields(message, where, !out.options.tools.empty());
  }
}

void RecordReader::CheckMessageFields(const Json& message, const std::string& where, bool tools) const {
  if (!dialogues_.has_template()) return;
  for (const auto& [key, value] : message.items()) {
    const bool empty = value.is_null() || (value.is_string() && value.get_ref<const std::string&>().empty());
    if (empty || key == "role" || key == "content" || IsHarmlessField(key) || Ignored(key)) continue;
    if (dialogues_.Reads(key, tools)) continue;
    Fail(ErrorCode::kData, where, ": the model's chat template has no place for \"", key.substr(0, 60),
         "\"; --ignore-fields ", key.substr(0, 60), " goes on without");
  }
}

}  // namespace cambium
