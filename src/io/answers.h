#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "io/marked_text.h"

namespace cambium {

// A rendered dialogue and the special tokens that its template wrote, in order.
struct RenderedDialogue {
  struct Special {
    size_t begin, end;  // bytes of the text
    int32_t id;
  };
  MarkedText text;
  std::vector<Special> specials;
};

// How a template puts answers into a dialogue.
struct AnswerHabits {
  std::string prompt;          // what asks for an answer: "<|im_start|>assistant\n"
  std::vector<size_t> cuts;    // where `prompt` may break off in a dialogue; at the first its beginning is known
  std::string after_question;  // all that a prompt has behind a question: " [/INST]"
  std::function<bool(int32_t id)> is_stop;

  // Reads `prompt`, `cuts` and `after_question` off a question (the message 0), rendered with and without the request
  // for an answer.
  void Learn(const RenderedDialogue& asked, const std::string& plain);
};

struct AnswerSpan {
  static constexpr int32_t kNobody = -2;
  size_t begin, end;  // bytes of the rendered text
  int32_t message;    // kNobody: {% generation %} wrote it from no message
};

// The assistant's answers in the order of the text: what {% generation %} wrote, where the template has such marks,
// else the words of each assistant's message from the end of the prompt for them to the stop token behind them. Answers
// that the template left out are missing.
std::vector<AnswerSpan> FindAnswers(const RenderedDialogue& rendered, const nlohmann::ordered_json& messages,
                                    const AnswerHabits& habits);

}  // namespace cambium
