#include "io/chat_template.h"

#include <gtest/gtest.h>

#include <chrono>

#include "cambium/error.h"
#include "io/json.h"

namespace cambium {
namespace {

using Json = nlohmann::ordered_json;

Json Golden() {
  const std::string path = std::string(CAMBIUM_TEST_DIR) + "/golden/chat_templates.json";
  return ParseOrderedJson(ReadTextFile(path), path);
}

// "" where the case comes out as jinja2 had it, else what differs. Where jinja2 refused, any error agrees.
std::string Difference(const Json& c) {
  const std::string name = c["name"];
  std::string got;
  try {
    got = ChatTemplate(c["template"].get<std::string>())
              .Render(c["messages"], c["add_generation_prompt"].get<bool>(), c["extra"])
              .text;
  } catch (const Error& error) {
    return c.contains("expect") ? name + ": " + error.what() : "";
  }
  if (!c.contains("expect")) return name + ": rendered \"" + got + "\" where jinja2 refuses";
  const std::string want = c["expect"];
  return got == want ? "" : name + ":\n want " + want + "\n got  " + got;
}

TEST(ChatTemplate, RendersByteForByteAsJinja2) {
  const Json cases = Golden();
  EXPECT_GT(cases.size(), 100u);
  for (const Json& c : cases) EXPECT_EQ(Difference(c), "");
}

TEST(ChatTemplate, ComparisonSeesAWrongByteAndAMissingError) {
  Json cases = Golden();
  Json& good = cases[0];
  good["expect"] = good["expect"].get<std::string>() + " ";
  EXPECT_NE(Difference(good), "");
  good.erase("expect");
  EXPECT_NE(Difference(good), "");
}

std::string Refusal(const std::string& source, const Json& messages = Json::array(),
                    ErrorCode code = ErrorCode::kData) {
  try {
    ChatTemplate(source).Render(messages, true);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << source.substr(0, 80);
    EXPECT_EQ(std::string(error.what()).find("chat template: "), 0u);
    return error.what();
  }
  return "";
}

// Row 26 of the conformance table.
TEST(ChatTemplate, BoundsHostileTemplates) {
  const std::string loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
  const std::string text =
      "{% set ns = namespace(s='x') %}{% for a in range(999) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}";
  const std::string list =
      "{% set ns = namespace(l=[1]) %}{% for a in range(999) %}{% set ns.l = ns.l + ns.l %}{% endfor %}";
  const std::string nest =
      "{% set ns = namespace(l=[]) %}{% for a in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}";
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& source : {loop,
                                    text,
                                    list,
                                    nest,
                                    std::string("{{ range(10**9) }}"),
                                    std::string("{{ 'x' * 10**9 }}"),
                                    std::string("{{ [1] * 10**9 }}"),
                                    std::string("{{ 9 ** 99999 }}"),
                                    std::string("{{ 9223372036854775807 + 1 }}"),
                                    std::string("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
                                    std::string("{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}"),
                                    std::string("{% for a in range(99999) %}{{ 'x' * 1000000 }}{% endfor %}"),
                                    std::string("{{ 'x'.zfill(10**12) }}"),
                                    std::string("{{ 'x' | indent(10**12) }}"),
                                    std::string("{{ ('a' * 100000).replace('', 'b' * 100000) }}"),
                                    std::string("{{ [1] | batch(10**12, 0) | list }}"),
                                    "{{ " + std::string(100000, '(') + "1" + std::string(100000, ')') + " }}",
                                    "{{ " + std::string(100000, '[') + std::string(100000, ']') + " }}",
                                    "{{ " + std::string(100000, '-') + "1 }}",
                                    "{{ x" +
                                        [] {
                                          std::string s;
                                          for (int i = 0; i < 100000; ++i) s += ".a";
                                          return s;
                                        }() +
                                        " }}",
                                    "{{ 1" +
                                        [] {
                                          std::string s;
                                          for (int i = 0; i < 100000; ++i) s += "+1";
                                          return s;
                                        }() +
                                        " }}",
                                    [] {
                                      std::string s;
                                      for (int i = 0; i < 100000; ++i) s += "{% if 1 %}";
                                      return s;
                                    }(),
                                    std::string(2 << 20, 'x')}) {
    EXPECT_NE(Refusal(source), "") << source.substr(0, 80);
  }
  const auto seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_LT(seconds, 60);  // under sanitizers; about 2 s without
}

TEST(ChatTemplate, LetsNoAttributeEscape) {
  for (const char* source :
       {"{{ ''.__class__ }}", "{{ ''['__class__'] }}", "{{ [].__init__ }}", "{{ messages.__class__.__mro__ }}",
        "{{ raise_exception.__globals__ }}", "{{ namespace.__init__ }}", "{{ ''|attr('__class__') }}",
        "{{ '{0.__class__}'.format(1) }}", "{{ ['x']|map(attribute='__class__')|list }}",
        "{% for a in [1] %}{{ loop.__class__ }}{% endfor %}", "{% set m = messages.append %}{{ m(1) }}",
        "{% set ns = namespace() %}{% set ns.self = ns %}", "{% include 'x' %}", "{% import 'x' as y %}",
        "{% extends 'x' %}", "{{ self.x }}", "{{ cycler.__init__.__globals__.os }}"}) {
    EXPECT_NE(Refusal(source), "") << source;
  }
}

TEST(ChatTemplate, PassesOnWhatTheTemplateRefuses) {
  EXPECT_EQ(Refusal("{{ raise_exception('Roles must alternate') }}", Json::array(), ErrorCode::kUsage),
            "chat template: Roles must alternate");
}

TEST(ChatTemplate, NamesTheLineOfASyntaxError) {
  EXPECT_NE(Refusal("a\nb\n{{ 1 + }}").find("line 3"), std::string::npos);
  EXPECT_NE(Refusal("a\n{% if x %}\nb").find("endif"), std::string::npos);
}

TEST(ChatTemplate, TakesVariablesAndPlainJson) {
  const nlohmann::json messages = nlohmann::json::array({{{"role", "user"}, {"content", "hi"}}});
  const ChatTemplate chat(
      "{{ bos_token }}{{ messages[0].content }}{{ tools }}{% if add_generation_prompt %}>{% endif %}");
  EXPECT_EQ(chat.Render(messages, true, {{"bos_token", "<s>"}}).text, "<s>hiNone>");
  EXPECT_EQ(chat.Render(messages, false).text, "hiNone");
  EXPECT_THROW(chat.Render(messages, true, Json::array()), Error);
}

// 0xA0 alone is no UTF-8, and so not U+00A0, which is white space. Split once went round at it until its fuel was out.
TEST(ChatTemplate, TakesNoInvalidByteForWhiteSpace) {
  const ChatTemplate chat(
      "{{ ' a  b\xA0 '.split() | join('|') }} {{ ' a  b\xA0 '.rsplit() | join('|') }} {{ '\xA0'.isspace() }}");
  EXPECT_EQ(chat.Render(Json::array(), false).text, "a|b\xA0 a|b\xA0 False");
}

TEST(ChatTemplate, PrintsTodaysDate) {
  const std::string text = ChatTemplate("{{ strftime_now('%Y-%m-%d') }}").Render(Json::array(), false).text;
  EXPECT_EQ(text.size(), 10u);
  EXPECT_EQ(text[4], '-');
}

}  // namespace
}  // namespace cambium
