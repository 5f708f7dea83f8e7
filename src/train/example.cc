#include "train/example.h"

#include <algorithm>

#include "cambium/error.h"
#include "io/token_places.h"

namespace cambium {
namespace {

using Json = nlohmann::ordered_json;

bool IsAnswer(const Json& message) { return message.value("role", Json()) == "assistant"; }

void NeedTemplate(const DialogueEncoder& dialogues) {
  if (!dialogues.has_template()) {
    Fail(ErrorCode::kUsage, "the model has no chat template; give the data as text or completions");
  }
}

// Nothing predicts the first token.
Example Finished(Example example) {
  if (!example.trained.empty()) example.trained[0] = 0;
  return example;
}

// Counts the answers that are trained, and those of them that end with a stop token.
void CountAnswers(const Tokenizer& tokenizer, const Dialogue& dialogue, const std::vector<uint8_t>& learned,
                  DatasetReport& report) {
  for (size_t i = 0; i < dialogue.ids.size(); ++i) {
    const bool last = i + 1 == dialogue.ids.size() || dialogue.answer_of[i + 1] != dialogue.answer_of[i];
    const int32_t message = dialogue.answer_of[i];
    if (!last || message == Dialogue::kNone || (message >= 0 && !learned[static_cast<size_t>(message)])) continue;
    ++report.answers;
    report.answers_stopped += tokenizer.IsEndOfGeneration(dialogue.ids[i]);
  }
}

}  // namespace

ExampleMaker::ExampleMaker(const Tokenizer& tokenizer, const DatasetOptions& options)
    : tokenizer_(tokenizer),
      options_(options),
      dialogues_(tokenizer),
      reader_(dialogues_, options.format == "plain" ? "auto" : options.format, options.ignored_fields) {}

// Pairs go through the template too, unless the data is raw.
bool ExampleMaker::AsDialogue(const Record& record) const {
  const bool pair = record.kind == Record::Kind::kPair && dialogues_.has_template() && options_.use_template;
  return pair || record.kind == Record::Kind::kDialogue;
}

Example ExampleMaker::FromRecord(const Json& json, DatasetReport& report) const {
  const Record record = reader_.Read(json, true);
  if (record.kind == Record::Kind::kPair && record.answer.empty()) Fail(ErrorCode::kData, "the answer is empty");
  if (AsDialogue(record)) return FromDialogue(record, report);
  if (record.kind == Record::Kind::kPair) return FromPair(record, report);
  return record.kind == Record::Kind::kIds ? FromIds(record, report) : FromText(record.answer, true, report);
}

Example ExampleMaker::PromptOf(const Json& json) const {
  Record record = reader_.Read(json, false);
  Example prompt;
  if (AsDialogue(record)) {
    NeedTemplate(dialogues_);
    if (record.kind == Record::Kind::kPair && record.prompt.empty()) Fail(ErrorCode::kData, "the prompt is empty");
    while (!record.messages.empty() && IsAnswer(record.messages.back()))
      record.messages.erase(record.messages.end() - 1);
    if (record.messages.empty()) Fail(ErrorCode::kData, "no message asks for an answer");
    record.options.add_generation_prompt = true;
    prompt.ids = dialogues_.Ids(record.messages, record.options);
  } else if (record.kind == Record::Kind::kIds) {
    DatasetReport unused;
    prompt = FromIds(record, unused);
    if (!record.labels.is_null()) {
      const auto answer = std::find(prompt.trained.begin(), prompt.trained.end(), uint8_t{1});
      prompt.ids.resize(static_cast<size_t>(answer - prompt.trained.begin()));
    }
    if (prompt.ids.empty()) Fail(ErrorCode::kData, "no token stands before the answer");
  } else {
    const std::string& text = record.kind == Record::Kind::kText ? record.answer : record.prompt;
    if (text.empty()) Fail(ErrorCode::kData, "the prompt is empty");
    Begin(prompt);
    const std::vector<int32_t> ids = tokenizer_.Encode(text, false, false);
    prompt.ids.insert(prompt.ids.end(), ids.begin(), ids.end());
  }
  prompt.trained.assign(prompt.ids.size(), 0);
  return prompt;
}

Example ExampleMaker::FromDialogue(const Record& record, DatasetReport& report) const {
  NeedTemplate(dialogues_);
  if (std::none_of(record.messages.begin(), record.messages.end(), IsAnswer)) {
    Fail(ErrorCode::kData, "no message has the role \"assistant\"");
  }
  const Dialogue dialogue = dialogues_.Encode(record.messages, record.options);
  const auto answered = [](int32_t message) { return message != Dialogue::kNone; };
  if (std::none_of(dialogue.answer_of.begin(), dialogue.answer_of.end(), answered)) {
    Fail(ErrorCode::kData, "the chat template writes none of the assistant's words; give the data as completions");
  }
  CountAnswers(tokenizer_, dialogue, record.learned, report);
  Example example;
  example.ids = dialogue.ids;
  for (const int32_t message : dialogue.answer_of) {
    const bool learned =
        message == AnswerSpan::kNobody || (message >= 0 && record.learned[static_cast<size_t>(message)]);
    example.trained.push_back(learned || options_.train_on_prompt);
  }
  return Finished(std::move(example));
}

void ExampleMaker::Begin(Example& example) const {
  if (tokenizer_.add_bos() && tokenizer_.bos() >= 0) example.ids.push_back(tokenizer_.bos());
}

void ExampleMaker::End(Example& example, DatasetReport& report) const {
  ++report.answers;
  if (tokenizer_.eos() < 0) return;
  ++report.answers_stopped;
  example.ids.push_back(tokenizer_.eos());
}

// Prompt and answer as one text; a token that has bytes of both is the answer's.
Example ExampleMaker::FromPair(const Record& record, DatasetReport& report) const {
  const std::string text = record.prompt + record.answer;
  const std::vector<int32_t> ids = tokenizer_.Encode(text, false, false);
  const std::vector<Span> places = TokenPlaces(tokenizer_, text, ids);
  Example example;
  Begin(example);
  example.trained.assign(example.ids.size(), options_.train_on_prompt);
  for (size_t i = 0; i < ids.size(); ++i) {
    example.ids.push_back(ids[i]);
    example.trained.push_back(options_.train_on_prompt || places[i].end > record.prompt.size());
  }
  End(example, report);
  example.trained.resize(example.ids.size(), 1);
  return Finished(std::move(example));
}

Example ExampleMaker::FromText(std::string_view text, bool end, DatasetReport& report) const {
  if (text.empty()) Fail(ErrorCode::kData, "the text is empty");
  Example example;
  Begin(example);
  const std::vector<int32_t> ids = tokenizer_.Encode(text, false, false);
  example.ids.insert(example.ids.end(), ids.begin(), ids.end());
  if (end) End(example, report);
  example.trained.assign(example.ids.size(), 1);
  return Finished(std::move(example));
}

Example ExampleMaker::FromIds(const Record& record, DatasetReport& report) const {
  const Json &ids = record.ids, &labels = record.labels;
  if (!labels.is_null() && (!labels.is_array() || labels.size() != ids.size())) {
    Fail(ErrorCode::kData, "field \"labels\" holds ", labels.is_array() ? labels.size() : 0, " values, \"input_ids\" ",
         ids.size());
  }
  Example example;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!ids[i].is_number_integer() || ids[i] < 0 || ids[i] >= tokenizer_.vocab_size()) {
      Fail(ErrorCode::kData, "input_ids[", i, "] is ", ids[i].dump(), ", expected 0 to ", tokenizer_.vocab_size() - 1);
    }
    example.ids.push_back(ids[i].get<int32_t>());
    if (!labels.is_null() && (!labels[i].is_number_integer() || (labels[i] != -100 && labels[i] != ids[i]))) {
      Fail(ErrorCode::kData, "labels[", i, "] is ", labels[i].dump(), ", expected -100 or the token's own id ",
           ids[i].dump());
    }
    example.trained.push_back(labels.is_null() || labels[i] != -100);
  }
  example = Finished(std::move(example));
  ++report.answers;
  for (size_t i = 0; i < example.ids.size(); ++i) {
    if (example.trained[i] && tokenizer_.IsEndOfGeneration(example.ids[i])) {
      ++report.answers_stopped;
      break;
    }
  }
  return example;
}

}  // namespace cambium
