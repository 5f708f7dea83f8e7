#include <utility>

#include "server/formats.h"
#include "server/ids.h"

namespace cambium::server {
namespace {

class ResponsesFormat : public PiecesFormat {
 public:
  ResponsesFormat(std::shared_ptr<const Ask> ask, const Json& body)
      : PiecesFormat(std::move(ask)), message_id_("msg_" + RandomHex(24)) {
    for (const auto& [name, otherwise] : kEchoed) {
      const auto given = body.find(name);
      echoed_[name] = given == body.end() || given->is_null() ? otherwise : *given;
    }
  }

  std::string Whole(const std::vector<Generation>& generations) override {
    const Generation& generation = generations.front();
    const ParsedAnswer answer = ParseAnswer(ask_->parser, generation.text);
    if (!answer.content.empty() || answer.calls.empty())
      items_.push_back(MessageItem(Status(generation), answer.content));
    for (const ToolCall& call : answer.calls) items_.push_back(CallItem("completed", call, call.arguments));
    return Dump(Ended(generation));
  }

  std::string Opening() override {
    const Json begun = Response("in_progress", Json::array());
    std::string events = Named("response.created", {{"response", begun}});
    events += Named("response.in_progress", {{"response", begun}});
    return events;
  }

  std::string Closing(const std::vector<Generation>& generations) override {
    const Generation& generation = generations.front();
    std::string events = CloseCall();
    if (items_.empty() && !open_) events += OpenMessage();
    events += CloseMessage(Status(generation));
    const bool whole = generation.finish_reason == FinishReason::kStop;
    return events + Named(whole ? "response.completed" : "response.incomplete", {{"response", Ended(generation)}});
  }

  std::string Failure(const ApiError& error) override {
    Json failed = Response("failed", Json::array());
    failed["error"] = {{"code", "server_error"}, {"message", error.message}};
    std::string events = Named("error", {{"code", "server_error"}, {"message", error.message}, {"param", nullptr}});
    events += Named("response.failed", {{"response", std::move(failed)}});
    return events;
  }

 private:
  // Fields of the request that stand in the answer, and what they are where the request has none.
  static inline const std::pair<const char*, Json> kEchoed[] = {{"instructions", nullptr},
                                                                {"max_output_tokens", nullptr},
                                                                {"metadata", Json::object()},
                                                                {"parallel_tool_calls", true},
                                                                {"temperature", nullptr},
                                                                {"top_p", nullptr},
                                                                {"tool_choice", "auto"},
                                                                {"tools", Json::array()},
                                                                {"text", {{"format", {{"type", "text"}}}}},
                                                                {"truncation", "disabled"},
                                                                {"user", nullptr}};

  // Events have numbers, so they are made one after another: never two in one expression.
  std::string Named(const char* event, Json data) {
    Json all = {{"type", event}, {"sequence_number", sequence_++}};
    all.update(data);
    return std::string("event: ") + event + "\n" + SseEvent(all);
  }
  static const char* Status(const Generation& generation) {
    return generation.finish_reason == FinishReason::kStop ? "completed" : "incomplete";
  }
  Json Place(Json data) const {
    Json all = {{"item_id", message_id_}, {"output_index", items_.size()}, {"content_index", 0}};
    all.update(data);
    return all;
  }
  static Json Part(const std::string& text) {
    return {{"type", "output_text"}, {"text", text}, {"annotations", Json::array()}, {"logprobs", Json::array()}};
  }
  Json MessageItem(const char* status, const std::string& text) const {
    return {{"id", message_id_},
            {"type", "message"},
            {"status", status},
            {"role", "assistant"},
            {"content", Json::array({Part(text)})}};
  }
  static Json CallItem(const char* status, const ToolCall& call, const std::string& arguments) {
    return {{"id", "fc_" + call.id.substr(5)},
            {"type", "function_call"},
            {"status", status},
            {"call_id", call.id},
            {"name", call.name},
            {"arguments", arguments}};
  }

  std::string OpenMessage() {
    open_ = true;
    text_.clear();
    message_id_ = "msg_" + RandomHex(24);
    Json item = MessageItem("in_progress", "");
    item["content"] = Json::array();
    std::string events =
        Named("response.output_item.added", {{"output_index", items_.size()}, {"item", std::move(item)}});
    events += Named("response.content_part.added", Place({{"part", Part("")}}));
    return events;
  }
  std::string CloseMessage(const char* status) {
    if (!std::exchange(open_, false)) return "";
    std::string events = Named("response.output_text.done", Place({{"text", text_}, {"logprobs", Json::array()}}));
    events += Named("response.content_part.done", Place({{"part", Part(text_)}}));
    events += ItemDone(MessageItem(status, text_));
    return events;
  }
  std::string ItemDone(Json item) {
    const size_t index = items_.size();
    items_.push_back(item);
    return Named("response.output_item.done", {{"output_index", index}, {"item", std::move(item)}});
  }
  std::string CloseCall() {
    if (!std::exchange(calling_, false)) return "";
    const Json item = CallItem("completed", call_, call_.arguments);
    std::string events =
        Named("response.function_call_arguments.done",
              {{"item_id", item["id"]}, {"output_index", items_.size()}, {"arguments", call_.arguments}});
    events += ItemDone(item);
    return events;
  }
  std::string Pieces(const std::vector<ToolCallParser::Delta>& deltas) override {
    std::string events;
    for (const ToolCallParser::Delta& delta : deltas) {
      if (delta.kind == ToolCallParser::Delta::kContent) {
        events += CloseCall();
        if (!open_) events += OpenMessage();
        text_ += delta.text;
        events += Named("response.output_text.delta", Place({{"delta", delta.text}, {"logprobs", Json::array()}}));
      } else if (delta.kind == ToolCallParser::Delta::kCallBegin) {
        events += CloseCall();
        events += CloseMessage("completed");
        call_ = {delta.id, delta.name, ""};
        calling_ = true;
        events += Named("response.output_item.added",
                        {{"output_index", items_.size()}, {"item", CallItem("in_progress", call_, "")}});
      } else if (delta.kind == ToolCallParser::Delta::kArguments) {
        call_.arguments += delta.text;
        const std::string id = "fc_" + call_.id.substr(5);
        events += Named("response.function_call_arguments.delta",
                        {{"item_id", id}, {"output_index", items_.size()}, {"delta", delta.text}});
      }
    }
    return events;
  }

  Json Response(const char* status, Json output) const {
    Json response = {{"id", ask_->id},      {"object", "response"}, {"created_at", ask_->created},
                     {"status", status},    {"error", nullptr},     {"incomplete_details", nullptr},
                     {"model", ask_->model}};
    response.update(echoed_);
    response["output"] = std::move(output);
    response["previous_response_id"] = nullptr;
    response["store"] = false;
    response["usage"] = nullptr;
    return response;
  }
  Json Ended(const Generation& generation) const {
    Json response = Response(Status(generation), items_);
    const bool looped = generation.finish_reason == FinishReason::kRepetition;
    if (generation.finish_reason != FinishReason::kStop)
      response["incomplete_details"] = {{"reason", looped ? "repetition" : "max_output_tokens"}};
    const Usage usage = UsageOf(*ask_, {generation});
    response["usage"] = {{"input_tokens", usage.prompt_tokens},
                         {"input_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
                         {"output_tokens", usage.completion_tokens},
                         {"output_tokens_details", {{"reasoning_tokens", 0}}},
                         {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
    return response;
  }

  ToolCall call_;  // under way
  bool calling_ = false;
  Json echoed_ = Json::object();
  Json items_ = Json::array();     // that are whole
  std::string message_id_, text_;  // of the message under way
  bool open_ = false;              // whether there is one
  int64_t sequence_ = 0;
};

}  // namespace

std::unique_ptr<AnswerFormat> MakeResponsesFormat(std::shared_ptr<const Ask> ask, const Json& body) {
  return std::make_unique<ResponsesFormat>(std::move(ask), body);
}

}  // namespace cambium::server
