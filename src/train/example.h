#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "io/chat_template.h"
#include "train/dataset.h"

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
  struct Builder;
  void CheckMessages(const nlohmann::ordered_json& messages) const;
  Example FromChat(nlohmann::ordered_json messages, const nlohmann::ordered_json& tools, DatasetReport& report) const;
  Example FromPair(const std::string& prompt, const std::string& answer, bool separate, DatasetReport& report) const;
  Example FromIds(const nlohmann::ordered_json& record, DatasetReport& report) const;
  std::string Render(const nlohmann::ordered_json& messages, bool generation_prompt,
                     const nlohmann::ordered_json& tools) const;

  const Tokenizer& tokenizer_;
  const DatasetOptions& options_;
  std::optional<ChatTemplate> template_;
};

}  // namespace cambium
