#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cambium/error.h"
#include "io/answers.h"
#include "io/chat_template.h"
#include "io/tokenizer.h"

namespace cambium {

struct DialogueOptions {
  bool add_generation_prompt = false;
  nlohmann::ordered_json tools;      // a list; null: none
  nlohmann::ordered_json variables;  // more of the template's, an object: enable_thinking, documents, ...; null: none
};

struct Dialogue {
  static constexpr int32_t kNone = -1;  // no answer's

  std::string text;
  std::vector<int32_t> ids;        // of the whole text, with BOS once
  std::vector<int32_t> answer_of;  // [ids] the message whose answer the token belongs to; kNone, AnswerSpan::kNobody
};

// The one way from messages to tokens. A model's chat template is rendered once, with marks that say which bytes are
// data; the whole text is tokenised, and control tokens are read only from what the template itself wrote.
//
// A token belongs to an answer (io/answers.h) if any of its bytes does, as transformers has it with char_to_token.
//
// Safe to share between threads; the tokenizer must outlive it.
class DialogueEncoder {
 public:
  using Json = nlohmann::ordered_json;

  explicit DialogueEncoder(const Tokenizer& tokenizer);
  ~DialogueEncoder();

  bool has_template() const { return !tokenizer_.chat_template().empty(); }
  // Whether the template, of dialogues with tools or without, looks at a variable or a field of this name at all.
  bool Reads(std::string_view name, bool tools) const { return Template(tools).Reads(name); }

  // `messages`: a list of objects as templates take them. Where there are tools, the model's template "tool_use" is
  // rendered if it has one, as in transformers. kUsage without a template, for tools that the template does not read,
  // and where the template refuses the messages; kData where the template itself is wrong.
  std::string Render(const Json& messages, const DialogueOptions& options) const;
  std::vector<int32_t> Ids(const Json& messages, const DialogueOptions& options) const;
  Dialogue Encode(const Json& messages, const DialogueOptions& options) const;

 private:
  struct Known;
  // A template, or why it cannot be read, which is said when it is asked for.
  struct Parsed {
    explicit Parsed(const std::string& text);
    std::optional<ChatTemplate> chat;
    std::optional<Error> broken;
  };
  const ChatTemplate& Template(bool tools) const;
  MarkedText RenderMarked(const Json& messages, const DialogueOptions& options) const;
  std::vector<int32_t> IdsOf(const MarkedText& rendered, std::vector<Span>* places = nullptr) const;
  std::shared_ptr<const AnswerHabits> HabitsOf(const DialogueOptions& options) const;
  AnswerHabits Probe(const DialogueOptions& options) const;

  const Tokenizer& tokenizer_;
  Parsed template_, tool_template_;
  std::unique_ptr<Known> known_;  // the template's habits, by its variables
};

}  // namespace cambium
