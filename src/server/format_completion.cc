#include "io/unicode.h"
#include "server/formats.h"

namespace cambium::server {
namespace {

class CompletionFormat : public AnswerFormat {
 public:
  CompletionFormat(std::shared_ptr<const Ask> ask, const Model& model)
      : AnswerFormat(std::move(ask)), model_(model), trace_(*ask_), offsets_(ask_->answers(), 0) {
    for (size_t i = 0; i < ask_->answers() && ask_->echo; ++i) offsets_[i] = CountCodePoints(Prompt(i));
  }

  std::string Whole(const std::vector<Generation>& generations) override {
    Json choices = Json::array();
    for (size_t i = 0; i < generations.size(); ++i) {
      const Generation& generation = generations[i];
      choices.push_back({{"index", i},
                         {"text", (ask_->echo ? Prompt(i) : "") + generation.text},
                         {"logprobs", Logprobs(i, generation)},
                         {"finish_reason", OpenAiReason(generation.finish_reason)}});
    }
    Json answer = Head();
    answer["choices"] = std::move(choices);
    answer["usage"] = UsageJson(UsageOf(*ask_, generations));
    return Dump(answer);
  }

  std::string Opening() override {
    std::string events;
    for (size_t i = 0; i < ask_->answers() && ask_->echo; ++i) events += Chunk(i, Prompt(i), nullptr, nullptr);
    return events;
  }

  std::string OnEvent(size_t answer, const Event& event) override {
    trace_.Note(answer, event);
    if (event.kind == Event::Kind::kPass) return "";
    if (event.kind == Event::Kind::kToken) {
      ++tokens_;
      Json logprobs;
      if (event.logprob != nullptr) {
        logprobs = NoLogprobs();
        Add(logprobs, *event.logprob, event.top, offsets_[answer]);
      }
      return event.text.empty() && logprobs.is_null() ? "" : Chunk(answer, event.text, std::move(logprobs), nullptr);
    }
    return Chunk(answer, event.text, nullptr, OpenAiReason(event.generation->finish_reason));
  }

  std::string Closing(const std::vector<Generation>& generations) override {
    std::string events;
    if (ask_->include_usage) {
      Json last = Head();
      last["choices"] = Json::array();
      last["usage"] = UsageJson(UsageOf(*ask_, generations));
      events = SseEvent(last);
    }
    return events + "data: [DONE]\n\n";
  }

 private:
  Json Head() const {
    return {{"id", ask_->id}, {"object", "text_completion"}, {"created", ask_->created}, {"model", ask_->model}};
  }
  std::string Prompt(size_t answer) const { return model_.Detokenize(ask_->prompts[ask_->PromptOf(answer)]); }

  std::string Chunk(size_t answer, std::string_view text, Json logprobs, Json reason) {
    Json chunk = Head();
    chunk["choices"] = Json::array(
        {{{"index", answer}, {"text", text}, {"logprobs", std::move(logprobs)}, {"finish_reason", std::move(reason)}}});
    if (ask_->usage_everywhere) {
      Usage usage;
      for (const auto& prompt : ask_->prompts) usage.prompt_tokens += std::ssize(prompt);
      usage.completion_tokens = tokens_;
      chunk["usage"] = UsageJson(usage);
    }
    trace_.Attach(answer, chunk);
    return SseEvent(chunk);
  }

  static Json NoLogprobs() {
    return {{"tokens", Json::array()},
            {"token_logprobs", Json::array()},
            {"top_logprobs", Json::array()},
            {"text_offset", Json::array()}};
  }
  // As it is shown: bytes that are no character are U+FFFD.
  std::string Shown(int32_t id) const {
    Utf8Stream utf8;
    const std::string whole = utf8.Push(model_.Piece(id));
    return whole + utf8.Finish();
  }
  void Add(Json& logprobs, const TokenLogprob& token, std::span<const TokenLogprob> top, size_t& offset) const {
    const std::string shown = Shown(token.id);
    Json others = Json::object();
    for (const TokenLogprob& other : top) others[Shown(other.id)] = ShownLogprob(other.logprob);
    logprobs["tokens"].push_back(shown);
    logprobs["token_logprobs"].push_back(ShownLogprob(token.logprob));
    logprobs["top_logprobs"].push_back(std::move(others));
    logprobs["text_offset"].push_back(offset);
    offset += CountCodePoints(shown);
  }
  Json Logprobs(size_t answer, const Generation& generation) const {
    if (ask_->top_logprobs < 0) return nullptr;
    Json logprobs = NoLogprobs();
    size_t offset = 0;
    if (ask_->echo) {
      const int32_t first = ask_->prompts[ask_->PromptOf(answer)].front();  // nothing stands before it
      logprobs["tokens"].push_back(Shown(first));
      logprobs["token_logprobs"].push_back(nullptr);
      logprobs["top_logprobs"].push_back(nullptr);
      logprobs["text_offset"].push_back(0);
      offset = CountCodePoints(Shown(first));
      for (size_t i = 0; i < generation.prompt_logprobs.size(); ++i) {
        Add(logprobs, generation.prompt_logprobs[i], generation.prompt_top[i], offset);
      }
    }
    for (size_t i = 0; i < generation.logprobs.size(); ++i) {
      Add(logprobs, generation.logprobs[i], generation.top[i], offset);
    }
    return logprobs;
  }

  const Model& model_;
  TraceNotes trace_;
  std::vector<size_t> offsets_;  // of each answer's next token, in characters
  int64_t tokens_ = 0;
};

}  // namespace

std::unique_ptr<AnswerFormat> MakeCompletionFormat(std::shared_ptr<const Ask> ask, const Model& model) {
  return std::make_unique<CompletionFormat>(std::move(ask), model);
}

}  // namespace cambium::server
