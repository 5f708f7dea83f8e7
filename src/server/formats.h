#pragma once

#include <memory>
#include <string>

#include "server/exchange.h"

namespace cambium::server {

// The answers of /v1/chat/completions and /v1/completions...
std::unique_ptr<AnswerFormat> MakeChatFormat(std::shared_ptr<const Ask> ask, const Model& model);
std::unique_ptr<AnswerFormat> MakeCompletionFormat(std::shared_ptr<const Ask> ask, const Model& model);
// Of /v1/messages, with its errors, and of /v1/responses, which repeats parts of the body. One answer each.
std::unique_ptr<AnswerFormat> MakeMessagesFormat(std::shared_ptr<const Ask> ask, const Model& model);
HttpResponse AnthropicError(const ApiError& error);
std::unique_ptr<AnswerFormat> MakeResponsesFormat(std::shared_ptr<const Ask> ask, const Json& body);

// What several write.
Json UsageJson(const Usage& usage);
std::string SseEvent(const Json& data);
std::string_view OpenAiReason(FinishReason reason);
// {"token", "logprob", "bytes"} of OpenAI's; a logprob is at least -9999.
Json TokenJson(const Model& model, const TokenLogprob& token);
double ShownLogprob(float logprob);
// Calls as OpenAI writes them.
Json CallsJson(const std::vector<ToolCall>& calls);

// Which drafter proposed each token, and what became of each draft, since an answer's last chunk:
// {"cambium": {"trace": [...], "drafters", "report"}} (docs/server.md). Does nothing unless asked for.
class TraceNotes {
 public:
  TraceNotes(const Ask& ask, const Model& model)
      : wanted_(ask.trace), model_(model), notes_(ask.answers(), Json::array()) {}
  void Note(size_t answer, const Event& event);
  void Attach(size_t answer, Json& chunk);

 private:
  Json PassNote(const DraftTrace& pass) const;

  bool wanted_;
  const Model& model_;
  std::vector<Json> notes_;
  Json drafters_, report_;  // of the answer that has just ended
};

// llama.cpp's "timings" of each answer so far. Does nothing unless asked for.
class TimingNotes {
 public:
  struct Times {
    int64_t prompt = 0, cached = 0, drawn = 0, drafted = 0, kept = 0;  // tokens; `prompt` those that were computed
    double prompt_ms = 0, drawn_ms = 0;                                // the latter since the first token
  };
  static Times Of(const Generation& generation);
  static Json Show(const Times& times);

  explicit TimingNotes(const Ask& ask) : answers_(ask.timings ? ask.answers() : 0), first_(answers_.size()) {}
  void Note(size_t answer, const Event& event);
  void Attach(size_t answer, Json& chunk) const;

 private:
  std::vector<Times> answers_;
  std::vector<std::chrono::steady_clock::time_point> first_;
};

// Answers in choices, as OpenAI's two older APIs have them.
class ChoicesFormat : public AnswerFormat {
 public:
  // The names of the answer as a whole and of a chunk of a stream.
  struct Objects {
    const char *whole, *chunk;
  };
  ChoicesFormat(std::shared_ptr<const Ask> ask, const Model& model, Objects objects)
      : AnswerFormat(std::move(ask)),
        model_(model),
        trace_(*ask_, model),
        timings_(*ask_),
        objects_(objects) {}
  std::string Closing(const std::vector<Generation>& generations) override;

 protected:
  std::string WholeOf(Json choices, const std::vector<Generation>& generations) const;
  std::string ChunkOf(size_t answer, Json choice);
  void Note(size_t answer, const Event& event);  // before anything else is made of it

  const Model& model_;

 private:
  Json Head(const char* object) const;
  TraceNotes trace_;
  TimingNotes timings_;
  Json progress_;  // for the next chunk
  Objects objects_;
  int64_t tokens_ = 0;  // so far
};

// One answer, taken apart into content and calls as it comes.
class PiecesFormat : public AnswerFormat {
 public:
  explicit PiecesFormat(std::shared_ptr<const Ask> ask) : AnswerFormat(std::move(ask)), parser_(ask_->parser) {}
  std::string OnEvent(size_t answer, const Event& event) override;

 protected:
  virtual std::string Pieces(const std::vector<ToolCallParser::Delta>& deltas) = 0;
  ToolCallParser parser_;
};

}  // namespace cambium::server
