#pragma once

#include <string_view>

#include "io/dialogue.h"
#include "train/dataset.h"
#include "train/record.h"

namespace cambium {

// Turns one record of any format into tokens with a mask.
class ExampleMaker {
 public:
  ExampleMaker(const Tokenizer& tokenizer, const DatasetOptions& options);

  // kData without a file name; the caller adds file and line.
  Example FromRecord(const nlohmann::ordered_json& record, DatasetReport& report) const;
  // What stands before the answer, untrained; the record may lack one. kData as above.
  Example PromptOf(const nlohmann::ordered_json& record) const;
  // A bare text, all of it trained; with the end token unless the text is a piece of a longer one.
  Example FromText(std::string_view text, bool end, DatasetReport& report) const;

 private:
  bool AsDialogue(const Record& record) const;
  Example FromDialogue(const Record& record, DatasetReport& report) const;
  Example FromPair(const Record& record, DatasetReport& report) const;
  Example FromIds(const Record& record, DatasetReport& report) const;
  void Begin(Example& example) const;
  void End(Example& example, DatasetReport& report) const;

  const Tokenizer& tokenizer_;
  const DatasetOptions& options_;
  DialogueEncoder dialogues_;
  RecordReader reader_;
};

}  // namespace cambium
