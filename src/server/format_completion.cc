#include "io/unicode.h"
#include "server/formats.h"

namespace cambium::server {
namespace {

class CompletionFormat : public ChoicesFormat {
 public:
  CompletionFormat(std::shared_ptr<const Ask> ask, const Model& model)
      : ChoicesFormat(std::move(ask), model, {"text_completion", "text_completion"}), offsets_(ask_->answers(), 0) {
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
    return WholeOf(std::move(choices), generations);
  }

  std::string Opening() override {
    std::string events;
    for (size_t i = 0; i < ask_->answers() && ask_->echo && ask_->top_logprobs < 0; ++i) {
      events += Chunk(i, Prompt(i), nullptr, nullptr);
    }
    return events;
  }

  std::string OnEvent(size_t answer, const Event& event) override {
    Note(answer, event);
    if (event.kind == Event::Kind::kPass) return "";
    if (event.kind == Event::Kind::kPrompt) return OnPrompt(answer, *event.prompt);
    if (event.kind == Event::Kind::kToken) {
      Json logprobs;
      if (event.logprob != nullptr) {
        logprobs = NoLogprobs();
        Add(logprobs, *event.logprob, event.top, offsets_[answer]);
      }
      return event.text.empty() && logprobs.is_null() ? "" : Chunk(answer, event.text, std::move(logprobs), nullptr);
    }
    return Chunk(answer, event.text, nullptr, OpenAiReason(event.generation->finish_reason));
  }

 private:
  // An echo that has log-probabilities comes when they are known.
  std::string OnPrompt(size_t answer, const PromptProgress& prompt) {
    if (ask_->echo && ask_->top_logprobs >= 0 && prompt.done == prompt.total) {
      Json logprobs = NoLogprobs();
      AddPrompt(logprobs, answer, prompt.logprobs, prompt.top, offsets_[answer] = 0);
      return Chunk(answer, Prompt(answer), std::move(logprobs), nullptr);
    }
    return ask_->progress ? Chunk(answer, "", nullptr, nullptr) : "";
  }

  std::string Prompt(size_t answer) const { return model_.Detokenize(ask_->prompts[ask_->PromptOf(answer)]); }

  std::string Chunk(size_t answer, std::string_view text, Json logprobs, Json reason) {
    return ChunkOf(
        answer,
        {{"index", answer}, {"text", text}, {"logprobs", std::move(logprobs)}, {"finish_reason", std::move(reason)}});
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
  void AddPrompt(Json& logprobs, size_t answer, std::span<const TokenLogprob> of,
                 std::span<const std::vector<TokenLogprob>> top, size_t& offset) const {
    const std::string first = Shown(ask_->prompts[ask_->PromptOf(answer)].front());  // nothing stands before it
    logprobs["tokens"].push_back(first);
    logprobs["token_logprobs"].push_back(nullptr);
    logprobs["top_logprobs"].push_back(nullptr);
    logprobs["text_offset"].push_back(offset);
    offset += CountCodePoints(first);
    for (size_t i = 0; i < of.size(); ++i) Add(logprobs, of[i], top[i], offset);
  }
  Json Logprobs(size_t answer, const Generation& generation) const {
    if (ask_->top_logprobs < 0) return nullptr;
    Json logprobs = NoLogprobs();
    size_t offset = 0;
    if (ask_->echo) AddPrompt(logprobs, answer, generation.prompt_logprobs, generation.prompt_top, offset);
    for (size_t i = 0; i < generation.logprobs.size(); ++i) {
      Add(logprobs, generation.logprobs[i], generation.top[i], offset);
    }
    return logprobs;
  }

  std::vector<size_t> offsets_;  // of each answer's next token, in characters
};

}  // namespace

std::unique_ptr<AnswerFormat> MakeCompletionFormat(std::shared_ptr<const Ask> ask, const Model& model) {
  return std::make_unique<CompletionFormat>(std::move(ask), model);
}

}  // namespace cambium::server
