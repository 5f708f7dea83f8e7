#include "train/example.h"

#include <algorithm>
#include <array>
#include <span>

#include "cambium/error.h"

namespace cambium {
namespace {

using Json = nlohmann::ordered_json;

const std::string& TextField(const Json& record, const char* key) {
  const auto found = record.find(key);
  if (found == record.end()) Fail(ErrorCode::kData, "field \"", key, "\" is missing");
  if (!found->is_string()) Fail(ErrorCode::kData, "field \"", key, "\" is ", found->type_name(), ", expected string");
  return found->get_ref<const std::string&>();
}

std::string OptionalText(const Json& record, const char* key) {
  const auto found = record.find(key);
  return found == record.end() || found->is_null() ? std::string() : TextField(record, key);
}

const Json& ListField(const Json& record, const char* key) {
  const auto found = record.find(key);
  if (found == record.end()) Fail(ErrorCode::kData, "field \"", key, "\" is missing");
  if (!found->is_array()) Fail(ErrorCode::kData, "field \"", key, "\" is ", found->type_name(), ", expected array");
  if (found->empty()) Fail(ErrorCode::kData, "field \"", key, "\" is empty");
  return *found;
}

std::string FormatOf(const Json& record) {
  static constexpr std::pair<const char*, const char*> kKeys[] = {
      {"messages", "chat"},      {"conversations", "sharegpt"}, {"input_ids", "ids"},
      {"instruction", "alpaca"}, {"prompt", "completions"},     {"text", "text"}};
  for (const auto& [key, format] : kKeys) {
    if (record.contains(key)) return format;
  }
  std::string keys;
  for (const auto& item : record.items()) keys += (keys.empty() ? "" : ", ") + item.key().substr(0, 40);
  Fail(ErrorCode::kData, "no field messages, conversations, input_ids, instruction, prompt or text; found ",
       keys.empty() ? "none" : keys);
}

// ShareGPT's {"from", "value"} as {"role", "content"}.
Json ChatOfShareGpt(const Json& turns) {
  Json messages = Json::array();
  for (const Json& turn : turns) {
    if (!turn.is_object()) Fail(ErrorCode::kData, "a turn of \"conversations\" is ", turn.type_name());
    const std::string& from = TextField(turn, "from");
    std::string role;
    if (from == "human" || from == "user") role = "user";
    if (from == "gpt" || from == "assistant" || from == "model" || from == "chatgpt" || from == "bing")
      role = "assistant";
    if (from == "system") role = "system";
    if (from == "tool" || from == "observation" || from == "function_response") role = "tool";
    if (role.empty()) Fail(ErrorCode::kData, "field \"from\" is \"", from, "\", expected human, gpt, system or tool");
    messages.push_back({{"role", role}, {"content", TextField(turn, "value")}});
  }
  return messages;
}

bool IsAnswer(const Json& message) { return message["role"] == "assistant"; }

}  // namespace

// Appends pieces of text to an example.
struct ExampleMaker::Builder {
  const Tokenizer& tokenizer;
  bool train_all;
  Example example;

  void Append(std::span<const int32_t> ids, bool trained) {
    example.ids.insert(example.ids.end(), ids.begin(), ids.end());
    example.trained.insert(example.trained.end(), ids.size(), trained || train_all);
  }
  void Append(std::string_view text, bool trained, bool special) {
    if (!text.empty()) Append(tokenizer.Encode(text, false, special), trained);
  }
  void Begin() {
    if (tokenizer.add_bos() && tokenizer.bos() >= 0) Append(std::array{tokenizer.bos()}, false);
  }
  // An answer as its template wrote it: trained up to and with its stop token, not beyond.
  void AppendAnswer(std::string_view text, DatasetReport& report) {
    const std::vector<int32_t> ids = tokenizer.Encode(text, false, true);
    const auto stop = std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return tokenizer.IsEndOfGeneration(id); });
    const size_t trained = stop == ids.end() ? ids.size() : static_cast<size_t>(stop - ids.begin()) + 1;
    ++report.answers;
    report.answers_stopped += stop != ids.end();
    Append(std::span(ids).first(trained), true);
    Append(std::span(ids).subspan(trained), false);
  }
  void End(DatasetReport& report) {
    ++report.answers;
    if (tokenizer.eos() < 0) return;
    ++report.answers_stopped;
    Append(std::array{tokenizer.eos()}, true);
  }
  Example Take() {
    if (!example.trained.empty()) example.trained[0] = 0;
    return std::move(example);
  }
};

ExampleMaker::ExampleMaker(const Tokenizer& tokenizer, const DatasetOptions& options)
    : tokenizer_(tokenizer), options_(options) {
  if (!tokenizer.chat_template().empty()) template_.emplace(tokenizer.chat_template());
}

std::string ExampleMaker::Render(const Json& messages, bool generation_prompt, const Json& tools) const {
  const auto piece = [&](int32_t id) { return id < 0 ? std::string() : std::string(tokenizer_.Piece(id)); };
  Json extra = {{"bos_token", piece(tokenizer_.bos())}, {"eos_token", piece(tokenizer_.eos())}};
  if (!tools.is_null()) extra["tools"] = tools;
  return template_->Render(messages, generation_prompt, extra);
}

Example ExampleMaker::FromRecord(const Json& record, DatasetReport& report) const {
  if (!record.is_object()) Fail(ErrorCode::kData, "a record is ", record.type_name(), ", expected object");
  const std::string format = options_.format == "auto" ? FormatOf(record) : options_.format;
  if (format == "chat") {
    Json messages = ListField(record, "messages");
    const auto tools = record.find("tools");
    return FromChat(std::move(messages), tools == record.end() ? Json() : *tools, report);
  }
  if (format == "sharegpt") {
    Json messages = ChatOfShareGpt(ListField(record, "conversations"));
    if (const std::string system = OptionalText(record, "system"); !system.empty()) {
      messages.insert(messages.begin(), Json{{"role", "system"}, {"content", system}});
    }
    return FromChat(std::move(messages), Json(), report);
  }
  if (format == "ids") return FromIds(record, report);
  if (format == "text") return FromText(TextField(record, "text"), true, report);
  if (format == "alpaca") {
    std::string prompt = TextField(record, "instruction");
    if (const std::string input = OptionalText(record, "input"); !input.empty()) prompt += "\n\n" + input;
    return FromPair(prompt, TextField(record, "output"), true, report);
  }
  if (format == "completions") {
    return FromPair(TextField(record, "prompt"), TextField(record, "completion"), false, report);
  }
  Fail(ErrorCode::kUsage, "format is \"", format,
       "\", expected auto, chat, completions, text, alpaca, sharegpt, ids or plain");
}

Example ExampleMaker::PromptOf(const Json& record) const {
  if (!record.is_object()) Fail(ErrorCode::kData, "a record is ", record.type_name(), ", expected object");
  const std::string format =
      options_.format == "auto" || options_.format == "plain" ? FormatOf(record) : options_.format;
  Builder builder{tokenizer_, false, {}};
  if (format == "ids") {
    DatasetReport unused;
    Example prompt = FromIds(record, unused);
    if (record.contains("labels")) {
      const auto answer = std::find(prompt.trained.begin(), prompt.trained.end(), uint8_t{1});
      prompt.ids.resize(static_cast<size_t>(answer - prompt.trained.begin()));
    }
    prompt.trained.assign(prompt.ids.size(), 0);
    if (prompt.ids.empty()) Fail(ErrorCode::kData, "no token stands before the answer");
    return prompt;
  }
  Json messages, tools;
  std::string text;
  if (format == "chat" || format == "sharegpt") {
    messages = format == "chat" ? ListField(record, "messages") : ChatOfShareGpt(ListField(record, "conversations"));
    tools = record.value("tools", Json());
    CheckMessages(messages);
    while (!messages.empty() && IsAnswer(messages.back())) messages.erase(messages.end() - 1);
    if (messages.empty()) Fail(ErrorCode::kData, "no message asks for an answer");
  } else {
    text = TextField(record, format == "text" ? "text" : format == "alpaca" ? "instruction" : "prompt");
    if (format == "alpaca" && !OptionalText(record, "input").empty()) text += "\n\n" + OptionalText(record, "input");
    if (text.empty()) Fail(ErrorCode::kData, "the prompt is empty");
    if (template_ && options_.use_template && format != "text") messages.push_back({{"role", "user"}, {"content", text}});
  }
  if (!messages.is_null()) {
    builder.Append(Render(messages, true, tools), false, true);
  } else {
    builder.Begin();
    builder.Append(format == "alpaca" ? text + "\n\n" : text, false, false);
  }
  return builder.Take();
}

void ExampleMaker::CheckMessages(const Json& messages) const {
  if (!template_) Fail(ErrorCode::kUsage, "the model has no chat template; give the data as text or completions");
  for (const Json& message : messages) {
    if (!message.is_object()) Fail(ErrorCode::kData, "a message is ", message.type_name(), ", expected object");
    TextField(message, "role");
    // A call of a tool may have no content of its own.
    if (!message.contains("tool_calls")) {
      const auto content = message.find("content");
      if (content == message.end()) TextField(message, "content");
      if (!content->is_string() && !content->is_array()) TextField(message, "content");
    }
  }
}

Example ExampleMaker::FromChat(Json messages, const Json& tools, DatasetReport& report) const {
  CheckMessages(messages);
  if (std::none_of(messages.begin(), messages.end(), IsAnswer)) {
    Fail(ErrorCode::kData, "no message has the role \"assistant\"");
  }

  // The conversation grows answer by answer; what the template wrote before stays as it is, or only the last is
  // trained.
  Builder builder{tokenizer_, options_.train_on_prompt, {}};
  const std::string whole = Render(messages, false, tools);
  std::vector<std::pair<size_t, size_t>> answers;  // [begin, end) in `whole`
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!IsAnswer(messages[i])) continue;
    const Json before(messages.begin(), messages.begin() + static_cast<int64_t>(i));
    const Json after(messages.begin(), messages.begin() + static_cast<int64_t>(i) + 1);
    const std::string prompt = before.empty() ? std::string() : Render(before, true, tools);
    const std::string answered = Render(after, false, tools);
    if (!answered.starts_with(prompt) || !whole.starts_with(answered)) continue;
    answers.emplace_back(prompt.size(), answered.size());
  }
  if (answers.empty()) {
    Fail(ErrorCode::kData,
         "the chat template rewrites what it wrote before the last answer, so the answers cannot be told "
         "from the prompt; give the data as completions");
  }
  size_t at = 0;
  for (const auto& [begin, end] : answers) {
    builder.Append(std::string_view(whole).substr(at, begin - at), false, true);
    builder.AppendAnswer(std::string_view(whole).substr(begin, end - begin), report);
    at = end;
  }
  builder.Append(std::string_view(whole).substr(at), false, true);
  return builder.Take();
}

Example ExampleMaker::FromPair(const std::string& prompt, const std::string& answer, bool separate,
                               DatasetReport& report) const {
  if (answer.empty()) Fail(ErrorCode::kData, "the answer is empty");
  if (template_ && options_.use_template) {
    return FromChat({{{"role", "user"}, {"content", prompt}}, {{"role", "assistant"}, {"content", answer}}}, Json(),
                    report);
  }
  Builder builder{tokenizer_, options_.train_on_prompt, {}};
  builder.Begin();
  builder.Append(separate ? prompt + "\n\n" : prompt, false, false);
  builder.Append(answer, true, false);
  builder.End(report);
  return builder.Take();
}

Example ExampleMaker::FromText(std::string_view text, bool end, DatasetReport& report) const {
  if (text.empty()) Fail(ErrorCode::kData, "the text is empty");
  Builder builder{tokenizer_, true, {}};
  builder.Begin();
  builder.Append(text, true, false);
  if (end) builder.End(report);
  return builder.Take();
}

Example ExampleMaker::FromIds(const Json& record, DatasetReport& report) const {
  const Json& ids = ListField(record, "input_ids");
  const auto labels = record.find("labels");
  const bool labelled = labels != record.end() && !labels->is_null();
  if (labelled && (!labels->is_array() || labels->size() != ids.size())) {
    Fail(ErrorCode::kData, "field \"labels\" holds ", labels->is_array() ? labels->size() : 0,
         " values, \"input_ids\" ", ids.size());
  }
  Example example;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!ids[i].is_number_integer() || ids[i] < 0 || ids[i] >= tokenizer_.vocab_size()) {
      Fail(ErrorCode::kData, "input_ids[", i, "] is ", ids[i].dump(), ", expected 0 to ", tokenizer_.vocab_size() - 1);
    }
    example.ids.push_back(ids[i].get<int32_t>());
    bool trained = true;
    if (labelled) {
      const Json& label = (*labels)[i];
      if (!label.is_number_integer() || (label != -100 && label != ids[i])) {
        Fail(ErrorCode::kData, "labels[", i, "] is ", label.dump(), ", expected -100 or the token's own id ",
             ids[i].dump());
      }
      trained = label != -100;
    }
    example.trained.push_back(trained && i > 0);
  }
  ++report.answers;
  for (size_t i = 0; i < example.ids.size(); ++i) {
    if (example.trained[i] && tokenizer_.IsEndOfGeneration(example.ids[i])) {
      ++report.answers_stopped;
      break;
    }
  }
  return example;
}

}  // namespace cambium
