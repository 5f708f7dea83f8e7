#include "server/formats.h"

namespace cambium::server {
namespace {

class ChatFormat : public AnswerFormat {
 public:
  ChatFormat(std::shared_ptr<const Ask> ask, const Model& model)
      : AnswerFormat(std::move(ask)),
        model_(model),
        trace_(*ask_),
        splitters_(ask_->answers(), ToolSplitter(ask_->tools)) {}

  std::string Whole(const std::vector<Generation>& generations) override {
    Json choices = Json::array();
    for (size_t i = 0; i < generations.size(); ++i) {
      const Generation& generation = generations[i];
      const ToolSplitter::Piece answer = Split(ask_->tools, generation.text);
      Json message = {{"role", "assistant"}, {"content", answer.text}, {"refusal", nullptr}};
      if (!answer.calls.empty()) {
        message["content"] = answer.text.empty() ? Json() : Json(answer.text);
        message["tool_calls"] = CallsJson(answer.calls);
      }
      choices.push_back({{"index", i},
                         {"message", std::move(message)},
                         {"logprobs", Logprobs(generation)},
                         {"finish_reason", Reason(generation, answer.calls.size())}});
    }
    Json answer = Head("chat.completion");
    answer["choices"] = std::move(choices);
    answer["usage"] = UsageJson(UsageOf(*ask_, generations));
    return Dump(answer);
  }

  std::string Opening() override {
    std::string events;
    for (size_t i = 0; i < ask_->answers(); ++i) {
      events += Chunk(i, {{"role", "assistant"}, {"content", ""}}, nullptr, nullptr);
    }
    return events;
  }

  std::string OnEvent(size_t answer, const Event& event) override {
    trace_.Note(answer, event);
    if (event.kind == Event::Kind::kPass) return "";
    if (event.kind == Event::Kind::kToken) ++tokens_;
    std::string events = Pieces(answer, splitters_[answer].Push(event.text), Logprobs(event));
    if (event.kind == Event::Kind::kToken) return events;
    events += Pieces(answer, splitters_[answer].Finish(), nullptr);
    events += Chunk(answer, Json::object(), nullptr, Reason(*event.generation, splitters_[answer].calls()));
    return events;
  }

  std::string Closing(const std::vector<Generation>& generations) override {
    std::string events;
    if (ask_->include_usage) {
      Json last = Head("chat.completion.chunk");
      last["choices"] = Json::array();
      last["usage"] = UsageJson(UsageOf(*ask_, generations));
      events = SseEvent(last);
    }
    return events + "data: [DONE]\n\n";
  }

 private:
  Json Head(const char* object) const {
    return {{"id", ask_->id}, {"object", object}, {"created", ask_->created}, {"model", ask_->model}};
  }

  static Json Reason(const Generation& generation, size_t calls) {
    const bool called = calls > 0 && generation.finish_reason == FinishReason::kStop;
    return called ? "tool_calls" : OpenAiReason(generation.finish_reason);
  }

  std::string Pieces(size_t answer, const ToolSplitter::Piece& piece, Json logprobs) {
    std::string events;
    if (!piece.text.empty() || !logprobs.is_null()) {
      events = Chunk(answer, {{"content", piece.text}}, std::move(logprobs), nullptr);
    }
    if (piece.calls.empty()) return events;
    Json calls = CallsJson(piece.calls);
    size_t index = splitters_[answer].calls() - piece.calls.size();
    for (Json& call : calls) call["index"] = index++;
    return events + Chunk(answer, {{"tool_calls", std::move(calls)}}, nullptr, nullptr);
  }

  std::string Chunk(size_t answer, Json delta, Json logprobs, Json reason) {
    Json chunk = Head("chat.completion.chunk");
    chunk["choices"] = Json::array({{{"index", answer},
                                     {"delta", std::move(delta)},
                                     {"logprobs", std::move(logprobs)},
                                     {"finish_reason", std::move(reason)}}});
    if (ask_->usage_everywhere) {
      Usage usage;
      for (const auto& prompt : ask_->prompts) usage.prompt_tokens += std::ssize(prompt);
      usage.completion_tokens = tokens_;
      chunk["usage"] = UsageJson(usage);
    }
    trace_.Attach(answer, chunk);
    return SseEvent(chunk);
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

  const Model& model_;
  int64_t tokens_ = 0;
  TraceNotes trace_;
  std::vector<ToolSplitter> splitters_;
};

}  // namespace

std::unique_ptr<AnswerFormat> MakeChatFormat(std::shared_ptr<const Ask> ask, const Model& model) {
  return std::make_unique<ChatFormat>(std::move(ask), model);
}

}  // namespace cambium::server
