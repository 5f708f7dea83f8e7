#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "io/dialogue.h"

namespace cambium {

// One record of data in the one form that all dialects become (docs/training.md).
struct Record {
  enum class Kind { kDialogue, kPair, kText, kIds };
  Kind kind;
  nlohmann::ordered_json messages;  // kDialogue, kPair
  std::vector<uint8_t> learned;     // [messages] 0: an answer that is not to be trained
  DialogueOptions options;          // of the dialogue: tools, variables
  std::string prompt, answer;       // kPair as plain text; kText: the answer alone
  nlohmann::ordered_json ids, labels;
};

// Reads records. A field that would change the result and has no place in its dialect is kData by name, as is one that
// the model's template does not look at.
class RecordReader {
 public:
  using Json = nlohmann::ordered_json;

  // `format`: auto, chat, sharegpt, alpaca, completions, text or ids; the fields `ignored` are passed over.
  RecordReader(const DialogueEncoder& dialogues, std::string format, std::vector<std::string> ignored)
      : dialogues_(dialogues), format_(std::move(format)), ignored_(std::move(ignored)) {}

  // Without `with_answer` a pair may lack its answer. kData without a file's name; the caller adds file and line.
  Record Read(const Json& record, bool with_answer) const;

 private:
  std::string FormatOf(const Json& record) const;
  void CheckFields(const Json& record, const std::string& format) const;
  Record Chat(const Json& record) const;
  Record ShareGpt(const Json& record) const;
  Record Alpaca(const Json& record, bool with_answer) const;
  Record Completion(const Json& record, bool with_answer) const;
  Record TrlPair(const Json& record, bool with_answer) const;
  void TakeTools(const Json& record, bool wrap, Record& out) const;
  void TakeSystem(const Json& record, Record& out) const;
  void FinishMessages(Record& out) const;
  void CheckMessageFields(const Json& message, const std::string& where, bool tools) const;
  bool Ignored(std::string_view field) const;

  const DialogueEncoder& dialogues_;
  std::string format_;
  std::vector<std::string> ignored_;
};

}  // namespace cambium
