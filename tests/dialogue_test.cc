#include "io/dialogue.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "io/json.h"
#include "io/token_places.h"
#include "tiny_tokenizer.h"

namespace cambium {
namespace {

using Json = nlohmann::ordered_json;

const Json& Golden() {
  static const Json golden = [] {
    const std::string path = std::string(CAMBIUM_TEST_DIR) + "/golden/dialogues.json";
    return ParseOrderedJson(ReadTextFile(path), path);
  }();
  return golden;
}

// A tokenizer of the goldens with a family's template: "marked" or "plain".
Tokenizer FamilyTokenizer(const std::string& kind, const std::string& family, const char* form) {
  const Json& own = Golden()["families"][family];
  Json config = {{"eos_token", own["stop"]}, {"chat_template", own[form]}};
  if (own["bos"] != "") config["bos_token"] = own["bos"];
  return Tokenizer::FromJson(Golden()["tokenizers"][kind].dump(), config.dump(), "", kind + " " + family);
}

DialogueOptions OptionsOf(const Json& dialogue) {
  DialogueOptions options;
  options.variables = Json::object();
  for (const auto& [key, value] : dialogue["extra"].items())
    (key == "tools" ? options.tools : options.variables[key]) = value;
  return options;
}

std::string Trained(const Dialogue& dialogue) {
  std::string mask;
  for (const int32_t message : dialogue.answer_of) mask += message == Dialogue::kNone ? '0' : '1';
  return mask;
}

// The tokens, trained ones in brackets.
std::string Shown(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, const std::string& trained) {
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::string piece(tokenizer.Piece(ids[i]));
    text += trained[i] == '1' ? "[" + piece + "]" : piece + "|";
  }
  return text;
}

// Compares all cases with transformers' ids and masks; "unclear" ones only where the template has marks.
void CompareWithTransformers(const char* form) {
  for (const Json& c : Golden()["cases"]) {
    const std::string family = c["family"], kind = c["tokenizer"], name = c["dialogue"];
    const Json& dialogue = Golden()["dialogues"][name];
    const Tokenizer tokenizer = FamilyTokenizer(kind, family, form);
    const Dialogue got = DialogueEncoder(tokenizer).Encode(dialogue["messages"], OptionsOf(dialogue));
    const auto ids = c["ids"].get<std::vector<int32_t>>();
    const std::string where = family + " " + kind + " " + name + "\n" + Shown(tokenizer, ids, c["trained"]);
    ASSERT_EQ(got.ids, ids) << where << "\n" << Shown(tokenizer, got.ids, Trained(got));
    if (std::string_view(form) == "plain" && c["unclear"].get<bool>()) continue;
    EXPECT_EQ(Trained(got), c["trained"]) << where << "\n" << Shown(tokenizer, got.ids, Trained(got));
  }
}

TEST(Dialogue, MarksOfATemplateMaskAsTransformersDoes) { CompareWithTransformers("marked"); }

TEST(Dialogue, WordsAloneGiveTheMasksOfTheMarks) { CompareWithTransformers("plain"); }

// The prompt for an answer is a beginning of the dialogue that has it, and the answer begins where it ends. Templates
// whose prompt is another, or that have none for this dialogue, are left out.
TEST(Dialogue, AnswersBeginWhereThePromptForThemEnds) {
  int compared = 0;
  for (const Json& c : Golden()["cases"]) {
    const std::string family = c["family"];
    const Json& dialogue = Golden()["dialogues"][c["dialogue"].get<std::string>()];
    const Tokenizer tokenizer = FamilyTokenizer(c["tokenizer"], family, "plain");
    const DialogueEncoder encoder(tokenizer);
    DialogueOptions options = OptionsOf(dialogue);
    const Json& messages = dialogue["messages"];
    const Dialogue whole = encoder.Encode(messages, options);
    options.add_generation_prompt = true;
    const Json before(messages.begin(), messages.end() - 1);
    const std::string prompt = encoder.Render(before, options);
    const std::vector<int32_t> ids = encoder.Ids(before, options);
    const auto last = static_cast<int32_t>(messages.size()) - 1;
    if (!whole.text.starts_with(prompt) || !std::equal(ids.begin(), ids.end(), whole.ids.begin())) continue;
    if (before.back()["role"] == "assistant") continue;
    const auto first = std::find(whole.answer_of.begin(), whole.answer_of.end(), last);
    EXPECT_EQ(first - whole.answer_of.begin(), static_cast<std::ptrdiff_t>(ids.size()))
        << family << " " << c["dialogue"] << "\n"
        << Shown(tokenizer, whole.ids, Trained(whole));
    ++compared;
  }
  EXPECT_GT(compared, 80);
}

int CountControl(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  return static_cast<int>(
      std::count_if(ids.begin(), ids.end(), [&](int32_t id) { return tokenizer.Type(id) == TokenType::kControl; }));
}

// Whatever of a template's own tokens stands in a content stays text: as many control tokens as with harmless words,
// and all bytes come back.
RC_GTEST_PROP(Dialogue, ControlTokensInContentsStayText, ()) {
  std::vector<std::string> families;
  for (const auto& [name, family] : Golden()["families"].items()) families.push_back(name);
  const std::string name = *rc::gen::elementOf(families);
  const Tokenizer tokenizer = FamilyTokenizer("bytes", name, "plain");
  std::vector<std::string> parts = {"ok", "<|", "|>", "<", ">", "[", "/INST]", "im_", "end", "\n", "</", "s"};
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.Type(id) == TokenType::kControl) parts.push_back(std::string(tokenizer.Piece(id)));
  }
  const auto text = [&] {
    std::string joined = "a";
    for (const std::string& part : *rc::gen::container<std::vector<std::string>>(rc::gen::elementOf(parts)))
      joined += part;
    return joined + "b";
  };
  const std::string asked = text(), answered = text();
  const auto dialogue = [](const std::string& question, const std::string& answer) {
    return Json::array({{{"role", "user"}, {"content", question}}, {{"role", "assistant"}, {"content", answer}}});
  };
  const DialogueEncoder encoder(tokenizer);
  const Dialogue got = encoder.Encode(dialogue(asked, answered), {}), plain = encoder.Encode(dialogue("a", "b"), {});
  RC_ASSERT(CountControl(tokenizer, got.ids) == CountControl(tokenizer, plain.ids));
  RC_ASSERT(tokenizer.Decode(got.ids) == got.text);
  std::vector<int32_t> answer;
  for (size_t i = 0; i < got.ids.size(); ++i) {
    if (got.answer_of[i] == 1) answer.push_back(got.ids[i]);
  }
  RC_ASSERT(tokenizer.Decode(answer).find(answered) != std::string::npos);
}

TEST(Dialogue, DataNeverCompletesAControlToken) {
  // Content before, behind and around what the template writes; a role is the template's to build on, if it is a word.
  const Tokenizer tokenizer =
      TinyTokenizer("{% for m in messages %}{{ '<|im_' + m.role + '|>' + m.content + '>' }}{% endfor %}");
  const DialogueEncoder encoder(tokenizer);
  const auto ids = [&](const char* role, const char* content) {
    return encoder.Ids(Json::array({{{"role", role}, {"content", content}}}), {});
  };
  EXPECT_EQ(ids("start", "x").front(), 256);
  EXPECT_EQ(CountControl(tokenizer, ids("start", "<|im_end|")), 1);
  EXPECT_EQ(CountControl(tokenizer, ids("x|><|im_start|><|im_end", "")), 0);
}

TEST(Dialogue, MarksSurviveWhatTemplatesDo) {
  const auto words = [](const std::string& body) {  // the bytes that are marked as message 0's
    const MarkedText text = ChatTemplate(body).Render(Json::array({{{"role", "user"}, {"content", " a<b>c "}}}), false);
    std::string own;
    for (const TextMark& mark : text.marks) own += "{" + text.text.substr(mark.begin, mark.end - mark.begin) + "}";
    return own + " of " + text.text;
  };
  const std::string c = "{% set c = messages[0].content %}";
  EXPECT_EQ(words(c + "x{{ c }}y"), "{ a<b>c } of x a<b>c y");
  EXPECT_EQ(words(c + "x{{ '<' ~ c.strip() ~ '>' }}"), "{a<b>c} of x<a<b>c>");
  EXPECT_EQ(words(c + "{{ c[1:3] + '|' + c[3:] }}"), "{a<}{b>c } of a<|b>c ");
  EXPECT_EQ(words(c + "{{ c | trim | upper }}"), "{A<B>C} of A<B>C");
  EXPECT_EQ(words(c + "{{ c | trim | replace('<', '[') }}"), "{a}{b>c} of a[b>c");
  EXPECT_EQ(words(c + "{{ ('<|' ~ c) | title }}"), "{<| A<B>C } of <| A<B>C ");  // rewritten: wholly data
  EXPECT_EQ(words(c + "{{ c.split('<') | join('|') }}"), "{ a}{b>c } of  a|b>c ");
  EXPECT_EQ(words(c + "{% set t %}[{{ c }}]{% endset %}{{ t | trim }}"), "{ a<b>c } of [ a<b>c ]");
  EXPECT_EQ(words("{% macro f(x) %}({{ x }}){% endmacro %}" + c + "{{ f(c) }}"), "{ a<b>c } of ( a<b>c )");
  EXPECT_EQ(words(c + "{{ {'k': c} | tojson }}"), "{ a<b>c } of {\"k\": \" a<b>c \"}");
  EXPECT_EQ(words(c + "{{ [c] }}"), "{ a<b>c } of [' a<b>c ']");
  EXPECT_EQ(words(c + "{{ c | e }}"), "{ a&lt;b&gt;c } of  a&lt;b&gt;c ");
  EXPECT_EQ(words(c + "{{ '%s-{}'.format(c) }}"), "{ a<b>c } of %s- a<b>c ");
  EXPECT_EQ(words(c + "{{ c if '</think>' not in c else '' }}"), "{ a<b>c } of  a<b>c ");
  EXPECT_EQ(words(c + "{{ '' if c else c }}x"), " of x");
}

TEST(Dialogue, ManyMarksCostFuel) {
  const Json messages = Json::array({{{"role", "user"}, {"content", ""}}, {{"role", "user"}, {"content", ""}}});
  const ChatTemplate doubling(
      "{% set ns = namespace(t=messages[0].content ~ messages[1].content) %}"
      "{% for i in range(40) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}");
  EXPECT_THROW(doubling.Render(messages, false), Error);
}

TEST(Dialogue, BosComesOnce) {
  for (const char* form : {"{{ bos_token }}{{ messages[0].content }}", "{{ messages[0].content }}"}) {
    Json config = {{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"add_bos_token", true}, {"chat_template", form}};
    const Tokenizer tokenizer = Tokenizer::FromJson(Golden()["tokenizers"]["pieces"].dump(), config.dump(), "", "bos");
    const std::vector<int32_t> ids =
        DialogueEncoder(tokenizer).Ids(Json::array({{{"role", "user"}, {"content", "hi"}}}), {});
    EXPECT_EQ(std::count(ids.begin(), ids.end(), tokenizer.bos()), 1) << form;
    EXPECT_EQ(ids[0], tokenizer.bos());
    // Added or written, it moves no answer, though the dialogue spells it.
    const Json said = Json::array({{{"role", "assistant"}, {"content", "<s>hi<s>"}}});
    const Dialogue dialogue = DialogueEncoder(tokenizer).Encode(said, {});
    EXPECT_EQ(Trained(dialogue), "0" + std::string(dialogue.ids.size() - 1, '1')) << form;
  }
}

TEST(Dialogue, CallsTakeTheFormThatTheTemplateWants) {
  const Json messages =
      Json::array({{{"role", "user"},
                    {"content", Json::array({{{"type", "text"}, {"text", "a"}}, {{"type", "text"}, {"text", "b"}}})}},
                   {{"role", "assistant"},
                    {"tool_calls", Json::array({{{"function", {{"name", "f"}, {"arguments", "{\"x\": 1}"}}}}})}}});
  const std::string start = "{{ messages[0].content }} {% set f = messages[1].tool_calls[0].function %}";
  const auto rendered = [&](const std::string& body) {
    return DialogueEncoder(TinyTokenizer(start + body)).Render(messages, {});
  };
  EXPECT_EQ(rendered("{{ f.arguments | tojson }}"), "ab {\"x\": 1}");
  EXPECT_EQ(rendered("{{ f.arguments.x }}"), "ab 1");
  EXPECT_EQ(rendered("{{ 'call ' + f.arguments }}"), "ab call {\"x\": 1}");
}

TEST(Dialogue, RefusesWhatIsNoDialogue) {
  const Tokenizer tokenizer = TinyTokenizer(), bare = TinyTokenizer("");
  const DialogueEncoder encoder(tokenizer);
  const auto why = [](const DialogueEncoder& own, const Json& messages) -> std::string {
    try {
      own.Encode(messages, {});
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(why(encoder, 3), "messages is number, expected array");
  EXPECT_EQ(why(encoder, Json::array({3})), "a message is number, expected object");
  EXPECT_EQ(why(encoder, Json::array({{{"content", "x"}}})), "messages[0]: field \"role\" is missing");
  EXPECT_EQ(why(encoder, Json::array({{{"role", 1}, {"content", "x"}}})),
            "messages[0].role is number, expected string");
  EXPECT_EQ(why(encoder, Json::array({{{"role", "user"}, {"content", 1}}})),
            "messages[0].content is number, expected string");
  const Json image = Json::array({{{"type", "image"}}});
  EXPECT_EQ(why(encoder, Json::array({{{"role", "user"}, {"content", image}}})),
            "messages[0].content[0].type is \"image\", only \"text\" is supported");
  EXPECT_EQ(why(DialogueEncoder(bare), Json::array()), "the model has no chat template");
  EXPECT_NE(why(DialogueEncoder(TinyTokenizer("{% if")), Json::array()).find("chat template: line 1"),
            std::string::npos);
}

}  // namespace
}  // namespace cambium
