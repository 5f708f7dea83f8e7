#include "io/dialogue.h"

#include <algorithm>
#include <mutex>

#include "io/message_forms.h"
#include "io/token_places.h"

namespace cambium {
namespace {

bool IsSpecial(const Tokenizer& tokenizer, int32_t id) {
  const TokenType type = tokenizer.Type(id);
  return type == TokenType::kControl || type == TokenType::kUserDefined;
}

RenderedDialogue WithSpecials(const Tokenizer& tokenizer, MarkedText text, const std::vector<int32_t>& ids,
                              const std::vector<Span>& places) {
  RenderedDialogue rendered{std::move(text), {}};
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!IsSpecial(tokenizer, ids[i]) || places[i].begin == places[i].end) continue;
    rendered.specials.push_back({places[i].begin, places[i].end, ids[i]});
  }
  return rendered;
}

// Marks the tokens that have bytes of an answer.
std::vector<int32_t> AnswersOf(const std::vector<Span>& places, const std::vector<AnswerSpan>& answers) {
  std::vector<int32_t> answer_of(places.size(), Dialogue::kNone);
  for (const AnswerSpan& answer : answers) {
    auto place = std::lower_bound(places.begin(), places.end(), answer.begin,
                                  [](const Span& p, size_t begin) { return p.end <= begin && p.begin < begin; });
    for (; place != places.end() && place->begin < answer.end; ++place) {
      answer_of[static_cast<size_t>(place - places.begin())] = answer.message;
    }
  }
  return answer_of;
}

}  // namespace

struct DialogueEncoder::Known {
  std::mutex mutex;
  std::string variables;  // of `habits`, as text
  std::shared_ptr<const AnswerHabits> habits;
};

DialogueEncoder::Parsed::Parsed(const std::string& text) {
  if (text.empty()) return;
  try {
    chat.emplace(text);
  } catch (const Error& error) {
    broken = error;
  }
}

DialogueEncoder::DialogueEncoder(const Tokenizer& tokenizer)
    : tokenizer_(tokenizer),
      template_(tokenizer.chat_template()),
      tool_template_(tokenizer.NamedTemplate("tool_use")),
      known_(std::make_unique<Known>()) {}
DialogueEncoder::~DialogueEncoder() = default;

const ChatTemplate& DialogueEncoder::Template(bool tools) const {
  const Parsed& parsed = tools && (tool_template_.chat || tool_template_.broken) ? tool_template_ : template_;
  if (parsed.broken) throw *parsed.broken;
  if (!parsed.chat) Fail(ErrorCode::kUsage, "the model has no chat template");
  return *parsed.chat;
}

// Calls' arguments are objects where the template takes them so.
MarkedText DialogueEncoder::RenderMarked(const Json& messages, const DialogueOptions& options) const {
  const bool tools = !options.tools.empty();
  const ChatTemplate& chat = Template(tools);
  if (tools && !chat.Reads("tools")) Fail(ErrorCode::kUsage, "tools: the model's chat template does not read them");
  CheckMessages(messages);
  Json own = Json::object();
  const std::pair<const char*, int32_t> tokens[] = {{"bos_token", tokenizer_.bos()}, {"eos_token", tokenizer_.eos()}};
  for (const auto& [name, id] : tokens) own[name] = id < 0 ? "" : std::string(tokenizer_.Piece(id));
  Json extra = options.variables.is_null() ? Json::object() : options.variables;
  if (!options.tools.is_null()) extra["tools"] = options.tools;
  // A template that knows no parts gets texts.
  Json given = chat.Reads("text") ? messages : WithTextContents(messages);
  const auto render = [&](const Json& list) { return chat.Render(list, options.add_generation_prompt, extra, own); };
  Json parsed = given;
  if (!ParseArguments(parsed)) return render(given);
  try {
    return render(parsed);
  } catch (const Error& error) {  // some templates want the text
    if (error.code() != ErrorCode::kData) throw;
    return render(given);
  }
}

// `places`, if not null, gets the bytes that each token stands for.
std::vector<int32_t> DialogueEncoder::IdsOf(const MarkedText& rendered, std::vector<Span>* places) const {
  std::vector<Span> plain;
  for (const TextMark& mark : rendered.marks) {
    if (mark.begin < mark.end) plain.push_back({static_cast<uint32_t>(mark.begin), static_cast<uint32_t>(mark.end)});
  }
  std::vector<int32_t> ids = tokenizer_.Encode(rendered.text, plain);
  if (places != nullptr) *places = TokenPlaces(tokenizer_, rendered.text, ids);
  const bool has_bos = !ids.empty() && ids[0] == tokenizer_.bos();
  if (tokenizer_.add_bos() && tokenizer_.bos() >= 0 && !has_bos) {
    ids.insert(ids.begin(), tokenizer_.bos());
    if (places != nullptr) places->insert(places->begin(), Span{0, 0});
  }
  return ids;
}

std::string DialogueEncoder::Render(const Json& messages, const DialogueOptions& options) const {
  return RenderMarked(messages, options).text;
}

std::vector<int32_t> DialogueEncoder::Ids(const Json& messages, const DialogueOptions& options) const {
  return IdsOf(RenderMarked(messages, options));
}

Dialogue DialogueEncoder::Encode(const Json& messages, const DialogueOptions& options) const {
  MarkedText text = RenderMarked(messages, options);
  Dialogue dialogue;
  std::vector<Span> places;
  dialogue.ids = IdsOf(text, &places);
  const RenderedDialogue rendered = WithSpecials(tokenizer_, std::move(text), dialogue.ids, places);
  dialogue.answer_of = AnswersOf(places, FindAnswers(rendered, messages, *HabitsOf(options)));
  const bool bos_added = !places.empty() && places[0].end == 0 && dialogue.ids[0] == tokenizer_.bos();
  if (bos_added) dialogue.answer_of[0] = Dialogue::kNone;
  dialogue.text = rendered.text.text;
  return dialogue;
}

// Of the last variables asked for: a file's records have the same.
std::shared_ptr<const AnswerHabits> DialogueEncoder::HabitsOf(const DialogueOptions& options) const {
  const std::string variables = (options.tools.empty() ? "" : "with tools ") +
                                options.variables.dump(-1, ' ', false, Json::error_handler_t::replace);
  const std::lock_guard lock(known_->mutex);
  if (known_->habits == nullptr || known_->variables != variables) {
    known_->habits = std::make_shared<AnswerHabits>(Probe(options));
    known_->variables = variables;
  }
  return known_->habits;
}

AnswerHabits DialogueEncoder::Probe(const DialogueOptions& options) const {
  AnswerHabits habits;
  DialogueOptions own;
  own.variables = options.variables;
  if (tool_template_.chat) own.tools = options.tools;  // which choose the template
  const auto render = [&](const Json& messages, bool prompt) {
    own.add_generation_prompt = prompt;
    MarkedText text = RenderMarked(messages, own);
    std::vector<Span> places;
    const std::vector<int32_t> ids = IdsOf(text, &places);
    return WithSpecials(tokenizer_, std::move(text), ids, places);
  };
  Json messages = {{{"role", "user"}, {"content", "question"}}};
  int32_t stop = -1;
  try {
    habits.Learn(render(messages, true), render(messages, false).text.text);
    // What ends an answer though no configuration says so.
    messages.push_back({{"role", "assistant"}, {"content", "answer"}});
    const RenderedDialogue answered = render(messages, false);
    for (const auto& special : answered.specials) {
      const bool behind = !answered.text.marks.empty() && special.begin >= answered.text.marks.back().end;
      if (behind && (stop < 0 || (tokenizer_.IsEndOfGeneration(special.id) && !tokenizer_.IsEndOfGeneration(stop)))) {
        stop = special.id;
      }
    }
  } catch (const Error&) {  // a template that refuses such a dialogue keeps its habits to itself
  }
  habits.is_stop = [&tokenizer = tokenizer_, stop](int32_t id) {
    return id == stop || tokenizer.IsEndOfGeneration(id);
  };
  return habits;
}

}  // namespace cambium
