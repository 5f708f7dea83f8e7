#include <utility>

#include "server/formats.h"

namespace cambium::server {
namespace {

class ChatFormat : public ChoicesFormat {
 public:
  ChatFormat(std::shared_ptr<const Ask> ask, const Model& model)
      : ChoicesFormat(std::move(ask), model, {"chat.completion", "chat.completion.chunk"}),
        parsers_(ask_->answers(), ToolCallParser(ask_->parser)) {}

  std::string Whole(const std::vector<Generation>& generations) override {
    Json choices = Json::array();
    for (size_t i = 0; i < generations.size(); ++i) {
      const Generation& generation = generations[i];
      const ParsedAnswer answer = ParseAnswer(ask_->parser, generation.text);
      Json message = {{"role", "assistant"}, {"content", answer.content}, {"refusal", nullptr}};
      if (!answer.reasoning.empty()) message["reasoning_content"] = answer.reasoning;
      if (!answer.calls.empty()) {
        message["content"] = answer.content.empty() ? Json() : Json(answer.content);
        message["tool_calls"] = CallsJson(answer.calls);
      }
      choices.push_back({{"index", i},
                         {"message", std::move(message)},
                         {"logprobs", Logprobs(generation)},
                         {"finish_reason", Reason(generation, answer.calls.size())}});
    }
    return WholeOf(std::move(choices), generations);
  }

  std::string Opening() override {
    std::string events;
    for (size_t i = 0; i < ask_->answers(); ++i) {
      events += Chunk(i, {{"role", "assistant"}, {"content", ""}}, nullptr, nullptr);
    }
    return events;
  }

  std::string OnEvent(size_t answer, const Event& event) override {
    Note(answer, event);
    if (event.kind == Event::Kind::kPass) return "";
    if (event.kind == Event::Kind::kPrompt) {
      return ask_->progress ? Chunk(answer, Json::object(), nullptr, nullptr) : "";
    }
    std::string events = Pieces(answer, parsers_[answer].Push(event.text), Logprobs(event));
    if (event.kind == Event::Kind::kToken) return events;
    events += Pieces(answer, parsers_[answer].Finish(), nullptr);
    events += Chunk(answer, Json::object(), nullptr,
                    Reason(*event.generation, static_cast<size_t>(parsers_[answer].calls())));
    return events;
  }

 private:
  static Json Reason(const Generation& generation, size_t calls) {
    const bool called = calls > 0 && generation.finish_reason == FinishReason::kStop;
    return called ? "tool_calls" : OpenAiReason(generation.finish_reason);
  }

  std::string Pieces(size_t answer, const std::vector<ToolCallParser::Delta>& deltas, Json logprobs) {
    std::string events;
    for (const ToolCallParser::Delta& delta : deltas) {
      events += Chunk(answer, DeltaJson(delta), std::exchange(logprobs, nullptr), nullptr);
    }
    if (!logprobs.is_null()) events += Chunk(answer, {{"content", ""}}, std::move(logprobs), nullptr);
    return events;
  }

  static Json DeltaJson(const ToolCallParser::Delta& delta) {
    if (delta.kind == ToolCallParser::Delta::kContent) return {{"content", delta.text}};
    if (delta.kind == ToolCallParser::Delta::kReasoning) return {{"reasoning_content", delta.text}};
    Json call = {{"index", delta.index}};
    if (delta.kind == ToolCallParser::Delta::kCallBegin) {
      call.update({{"id", delta.id}, {"type", "function"}, {"function", {{"name", delta.name}, {"arguments", ""}}}});
    } else {
      call["function"]["arguments"] = delta.text;
    }
    return {{"tool_calls", Json::array({std::move(call)})}};
  }

  std::string Chunk(size_t answer, Json delta, Json logprobs, Json reason) {
    return ChunkOf(answer, {{"index", answer},
                            {"delta", std::move(delta)},
                            {"logprobs", std::move(logprobs)},
                            {"finish_reason", std::move(reason)}});
  }

  Json Entry(const TokenLogprob& token, std::span<const TokenLogprob> top) const {
    Json entry = TokenJson(model_, token);
    entry["top_logprobs"] = Json::array();
    for (const TokenLogprob& other : top) entry["top_logprobs"].push_back(TokenJson(model_, other));
    return entry;
  }
  Json Logprobs(const Event& event) const {
    if (event.logprob == nullptr) return nullptr;
    return {{"content", Json::array({Entry(*event.logprob, event.top)})}, {"refusal", nullptr}};
  }
  Json Logprobs(const Generation& generation) const {
    if (ask_->top_logprobs < 0) return nullptr;
    Json entries = Json::array();
    for (size_t i = 0; i < generation.logprobs.size(); ++i) {
      entries.push_back(Entry(generation.logprobs[i], generation.top[i]));
    }
    return {{"content", std::move(entries)}, {"refusal", nullptr}};
  }

  std::vector<ToolCallParser> parsers_;
};

}  // namespace

std::unique_ptr<AnswerFormat> MakeChatFormat(std::shared_ptr<const Ask> ask, const Model& model) {
  return std::make_unique<ChatFormat>(std::move(ask), model);
}

}  // namespace cambium::server
