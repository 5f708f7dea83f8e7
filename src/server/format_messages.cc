#include <algorithm>
#include <utility>

#include "server/formats.h"

namespace cambium::server {
namespace {

std::string Named(const char* event, Json data) {
  Json all = {{"type", event}};
  all.update(data);
  return std::string("event: ") + event + "\n" + SseEvent(all);
}

class MessagesFormat : public PiecesFormat {
 public:
  explicit MessagesFormat(std::shared_ptr<const Ask> ask) : PiecesFormat(std::move(ask)) {}

  std::string Whole(const std::vector<Generation>& generations) override {
    const Generation& generation = generations.front();
    const ParsedAnswer answer = ParseAnswer(ask_->parser, generation.text);
    Json message = Head();
    message["content"] = Json::array();
    if (!answer.content.empty() || answer.calls.empty()) message["content"].push_back(TextBlock(answer.content));
    for (const ToolCall& call : answer.calls) message["content"].push_back(CallBlock(call, ParseBody(call.arguments)));
    message.update(Ending(generation, answer.calls.size()));
    message["usage"] = UsageJson(generation);
    return Dump(message);
  }

  std::string Opening() override {
    Json message = Head();
    message["content"] = Json::array();
    message["stop_reason"] = nullptr;
    message["stop_sequence"] = nullptr;
    message["usage"] = {{"input_tokens", ask_->prompts.front().size()}, {"output_tokens", 0}};
    return Named("message_start", {{"message", std::move(message)}});
  }

  std::string Closing(const std::vector<Generation>& generations) override {
    const Generation& generation = generations.front();
    std::string events = blocks_ == 0 ? OpenBlock(TextBlock("")) : "";
    events += CloseBlock();
    return events +
           Named("message_delta", {{"delta", Ending(generation, static_cast<size_t>(parser_.calls()))},
                                   {"usage", UsageJson(generation)}}) +
           Named("message_stop", Json::object());
  }

  std::string Failure(const ApiError& error) override {
    return "event: error\ndata: " + AnthropicError(error).body + "\n\n";
  }
  HttpResponse Refusal(const ApiError& error) override { return AnthropicError(error); }

 private:
  Json Head() const { return {{"id", ask_->id}, {"type", "message"}, {"role", "assistant"}, {"model", ask_->model}}; }

  static Json TextBlock(const std::string& text) { return {{"type", "text"}, {"text", text}}; }
  static Json CallBlock(const ToolCall& call, Json input) {
    return {{"type", "tool_use"}, {"id", call.id}, {"name", call.name}, {"input", std::move(input)}};
  }
  std::string OpenBlock(Json block) {
    open_ = true;
    return Named("content_block_start", {{"index", blocks_++}, {"content_block", std::move(block)}});
  }
  std::string CloseBlock() {
    if (!std::exchange(open_, false)) return "";
    return Named("content_block_stop", {{"index", blocks_ - 1}});
  }
  std::string Delta(Json delta) const {
    return Named("content_block_delta", {{"index", blocks_ - 1}, {"delta", std::move(delta)}});
  }
  std::string Pieces(const std::vector<ToolCallParser::Delta>& deltas) override {
    std::string events;
    for (const ToolCallParser::Delta& delta : deltas) {
      if (delta.kind == ToolCallParser::Delta::kContent) {
        if (in_call_) events += CloseBlock();
        if (!open_) events += OpenBlock(TextBlock(""));
        in_call_ = false;
        events += Delta({{"type", "text_delta"}, {"text", delta.text}});
      } else if (delta.kind == ToolCallParser::Delta::kCallBegin) {
        events += CloseBlock();
        events += OpenBlock(CallBlock({delta.id, delta.name, ""}, Json::object()));
        in_call_ = true;
      } else if (delta.kind == ToolCallParser::Delta::kArguments) {
        events += Delta({{"type", "input_json_delta"}, {"partial_json", delta.text}});
      }
    }
    return events;
  }

  Json Ending(const Generation& generation, size_t calls) const {
    const bool looped = generation.finish_reason == FinishReason::kRepetition;
    if (generation.finish_reason != FinishReason::kStop)
      return {{"stop_reason", looped ? "repetition" : "max_tokens"}, {"stop_sequence", nullptr}};
    if (calls > 0) return {{"stop_reason", "tool_use"}, {"stop_sequence", nullptr}};
    if (std::ranges::find(ask_->stop, generation.stopped_by) == ask_->stop.end()) {
      return {{"stop_reason", "end_turn"}, {"stop_sequence", nullptr}};
    }
    return {{"stop_reason", "stop_sequence"}, {"stop_sequence", generation.stopped_by}};
  }

  // Anthropic counts what was read from a cache apart.
  Json UsageJson(const Generation& generation) const {
    const int64_t cached = generation.timings.cached_tokens;
    return {{"input_tokens", std::ssize(ask_->prompts.front()) - cached},
            {"cache_creation_input_tokens", 0},
            {"cache_read_input_tokens", cached},
            {"output_tokens", generation.ids.size()}};
  }

  int64_t blocks_ = 0;                   // begun
  bool open_ = false, in_call_ = false;  // the last one, and whether it is a call
};

}  // namespace

HttpResponse AnthropicError(const ApiError& error) {
  HttpResponse response = ToResponse(error);
  Json body = Json::parse(response.body);
  body = {{"type", "error"}, {"error", std::move(body["error"])}};
  response.body = Dump(body);
  return response;
}

std::unique_ptr<AnswerFormat> MakeMessagesFormat(std::shared_ptr<const Ask> ask, const Model&) {
  return std::make_unique<MessagesFormat>(std::move(ask));
}

}  // namespace cambium::server
