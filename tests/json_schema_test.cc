// Which texts the grammar of a JSON schema accepts, keyword by keyword.
#include <ctime>

#include "grammar_testing.h"
#include "sanitizer.h"

namespace cambium::testing {
namespace {

struct Case {
  std::string schema;
  std::vector<std::string> accepted, refused;
};

void Check(const std::vector<Case>& cases) {
  for (const Case& one : cases) {
    std::unique_ptr<Texts> texts;
    ASSERT_NO_THROW(texts = Schema(one.schema)) << one.schema;
    for (const std::string& text : one.accepted) EXPECT_TRUE(texts->Accept(text)) << one.schema << "\n  " << text;
    for (const std::string& text : one.refused) EXPECT_FALSE(texts->Accept(text)) << one.schema << "\n  " << text;
  }
}

std::string Refused(const std::string& schema) {
  return Refusal([](const std::string& text) { Schema(text); }, schema);
}

TEST(JsonSchema, Types) {
  Check({
      {R"({"type":"null"})", {"null"}, {"true", "nul", "nulll", ""}},
      {R"({"type":"boolean"})", {"true", "false"}, {"null", "1"}},
      {R"({"type":"integer"})", {"0", "-1", "12345"}, {"01", "1.5", "1e3", "-", "+1", "12345678901234567"}},
      {R"({"type":"number"})", {"0", "-1.5", "1e9", "2.5E-3"}, {".5", "1.", "1e", "01", "1e400"}},
      {R"({"type":"string"})",
       {R"("")", R"("a\"b\\")", R"("é €")", R"("\u00e9\ud83d\ude00\n")"},
       {R"("a)", "\"a\nb\"", R"("\x")", R"("\ud83d")", "\"\xff\"", R"("\ude00\ud83d")"}},
      {R"({"type":["string","null"]})", {R"("a")", "null"}, {"1"}},
      {R"(true)", {"1", R"({"a":[1,{"b":null}]})", "[]"}, {"", "{", "[1,]", R"({"a" : 1})"}},
      {R"({})", {"1", "\"x\""}, {"x"}},
  });
}

TEST(JsonSchema, EnumAndConst) {
  Check({
      {R"({"enum":["red","green",1,null,{"a":[1,2]}]})",
       {R"("red")", "1", "null", R"({"a":[1,2]})"},
       {R"("blue")", "2"}},
      {R"({"const":"exactly \"this\""})", {R"("exactly \"this\"")"}, {R"("exactly")"}},
      {R"({"enum":["a",1,2.5],"type":"number"})", {"1", "2.5"}, {R"("a")"}},
      {R"({"enum":["ab","abc","b"],"pattern":"^a","maxLength":2})", {R"("ab")"}, {R"("abc")", R"("b")"}},
      {R"({"enum":[1,2,3],"not":{"const":2}})", {"1", "3"}, {"2"}},
  });
}

TEST(JsonSchema, Objects) {
  Check({
      {R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"null"}},"required":["a","b"]})",
       {R"({"a":1,"b":null})"},
       {R"({"a":1})", R"({"b":null,"a":1})", R"({"a":1,"b":null,"c":1})", R"({"a":1,"b":null,})",
        R"({"a": 1,"b":null})"}},
      {R"({"type":"object","properties":{"a":{"const":1},"b":{"const":2},"c":{"const":3}},"required":["b"]})",
       {R"({"b":2})", R"({"a":1,"b":2})", R"({"b":2,"c":3})", R"({"a":1,"b":2,"c":3})"},
       {R"({})", R"({"a":1,"c":3})", R"({,"b":2})", R"({"a":1"b":2})"}},
      {R"({"type":"object"})", {"{}", R"({"a":1,"b":[]})"}, {"[]", R"({"a"})"}},
      {R"({"type":"object","additionalProperties":false})", {"{}"}, {R"({"a":1})"}},
      {R"({"properties":{"a":{"const":1}},"additionalProperties":{"type":"boolean"}})",
       {"{}", R"({"a":1,"b":true})", R"({"b":true,"aa":false})"},
       {R"({"a":true})", R"({"b":1})", R"({"b":true,"a":true})", R"({"\u0061":true})"}},
      {R"({"type":"object","patternProperties":{"^s_":{"type":"string"},"_n$":{"maxLength":1}},"additionalProperties":false})",
       {"{}", R"({"s_a":"xyz"})", R"({"s_n":"x","b_n":""})"},
       {R"({"s_a":1})", R"({"s_n":"xy"})", R"({"x":1})"}},
      {R"({"type":"object","required":["x"]})", {R"({"x":1})", R"({"x":1,"y":2})"}, {"{}", R"({"y":2})"}},
      {R"({"type":"object","propertyNames":{"pattern":"^[a-z]$"}})", {R"({"a":1})"}, {R"({"ab":1})"}},
      {R"({"type":"object","minProperties":1,"maxProperties":2})",
       {R"({"a":1})", R"({"a":1,"b":1})"},
       {"{}", R"({"a":1,"b":1,"c":1})"}},
      {R"({"properties":{"a":{"const":1},"b":{"const":1},"c":{"const":1}},"minProperties":2,"maxProperties":2})",
       {R"({"a":1,"b":1})", R"({"a":1,"c":1})", R"({"b":1,"c":1})"},
       {"{}", R"({"a":1})", R"({"a":1,"b":1,"c":1})"}},
      {R"({"properties":{"":{"const":1},"q\"uote":{"const":2}},"required":["","q\"uote"]})",
       {R"({"":1,"q\"uote":2})"},
       {R"({"":1})"}},
  });
}

TEST(JsonSchema, Arrays) {
  Check({
      {R"({"type":"array"})", {"[]", "[1,\"a\",[]]"}, {"[1,]", "[,]", "[1 ]"}},
      {R"({"items":{"type":"boolean"},"minItems":2,"maxItems":3})",
       {"[true,false]", "[true,false,true]"},
       {"[]", "[true]", "[true,true,true,true]", "[1,2]"}},
      {R"({"items":{"const":0},"minItems":100,"maxItems":1000000})", {}, {"[]", "[0]"}},
      {R"({"prefixItems":[{"const":1},{"type":"string"}],"items":false})",
       {"[]", "[1]", "[1,\"a\"]"},
       {"[1,\"a\",2]", "[2]"}},
      {R"({"prefixItems":[{"const":1}],"items":{"const":2},"minItems":2})", {"[1,2]", "[1,2,2,2]"}, {"[1]", "[1,1]"}},
      {R"({"prefixItems":[{"const":1},{"const":2}],"minItems":2})", {"[1,2]"}, {"[1]", "[1,2,3]"}},
      {R"({"type":"array","contains":{"const":7},"items":{"type":"integer"}})", {"[7]", "[7,1]"}, {"[]", "[1]"}},
      {R"({"maxItems":0})", {"[]"}, {"[1]"}},
  });
  const std::unique_ptr<Texts> many = Schema(R"({"items":{"const":0},"minItems":100,"maxItems":101})");
  std::string text = "[0";
  for (int i = 1; i < 99; ++i) text += ",0";
  EXPECT_FALSE(many->Accept(text + "]"));
  EXPECT_TRUE(many->Accept(text + ",0]"));
  EXPECT_TRUE(many->Accept(text + ",0,0]"));
  EXPECT_FALSE(many->Accept(text + ",0,0,0]"));
}

TEST(JsonSchema, Strings) {
  Check({
      {R"({"minLength":2,"maxLength":3})", {R"("ab")", R"("é\u00e9€")", R"("\ud83d\ude00😀")"}, {R"("a")", R"("abcd")"}},
      {R"({"maxLength":0})", {R"("")"}, {R"("a")"}},
      {R"({"pattern":"b+"})", {R"("b")", R"("abba")"}, {R"("aa")", R"("")"}},
      {R"({"pattern":"^a\"\\\\$"})", {R"("a\"\\")"}, {R"("a")"}},
      {R"({"pattern":"^[a-z]+$","maxLength":3,"minLength":2})",
       {R"("ab")", R"("abc")"},
       {R"("a")", R"("abcd")", R"("a1")"}},
      {R"({"format":"date"})",
       {R"("2024-02-29")", R"("2023-12-31")"},
       {R"("2023-02-29")", R"("2023-13-01")", R"("x")"}},
      {R"({"format":"date-time"})",
       {R"("2023-12-31T23:59:59Z")", R"("2023-12-31T23:59:59.25+01:00")"},
       {R"("2023-12-31")"}},
      {R"({"format":"uuid"})", {R"("123e4567-e89b-12d3-a456-426614174000")"}, {R"("123e4567")"}},
      {R"({"format":"ipv4"})", {R"("192.168.0.255")"}, {R"("256.1.1.1")", R"("1.1.1")", R"("01.1.1.1")"}},
      {R"({"format":"ipv6"})", {R"("::1")", R"("2001:db8::ff00:42:8329")", R"("::")"}, {R"("1:2:3")", R"("1::2::3")"}},
      {R"({"format":"email"})", {R"("a.b@example.com")"}, {R"("a@")", R"("@b.c")"}},
  });
}

TEST(JsonSchema, Numbers) {
  Check({
      {R"({"type":"integer","minimum":-5,"maximum":120})", {"-5", "0", "9", "99", "120"}, {"-6", "121", "1000", "1.0"}},
      {R"({"type":"integer","exclusiveMinimum":9,"exclusiveMaximum":11})", {"10"}, {"9", "11", "1"}},
      {R"({"type":"integer","minimum":1.5})", {"2", "10"}, {"1", "0", "-2"}},
      {R"({"type":"number","minimum":0.25,"maximum":10.5})",
       {"0.25", "0.250", "0.3", "1", "10", "10.5", "10.49999"},
       {"0.24", "0", "10.51", "11", "-1", "1e0"}},
      {R"({"type":"number","exclusiveMinimum":0,"maximum":1})",
       {"0.001", "1", "1.0", "1.000"},
       {"0", "0.0", "1.01", "-0.5"}},
      {R"({"type":"number","exclusiveMaximum":-1.5})", {"-1.51", "-2", "-100"}, {"-1.5", "-1.50", "-1", "0", "3"}},
      {R"({"type":"integer","multipleOf":7})", {"0", "7", "-14", "700"}, {"1", "8", "07"}},
      {R"({"type":"number","multipleOf":0.01})", {"1", "1.5", "1.25"}, {"1.255"}},
      {R"({"multipleOf":1.5})", {"0", "1.5", "3", "-4.5", "3.0"}, {"1", "2", "1.50", "4.4", "1.", "-0"}},
      {R"({"multipleOf":0.25,"maximum":2})", {"0.25", "0.5", "0.50", "2"}, {"0.3", "0.125", "2.25", "1.1"}},
      {R"({"minimum":3,"exclusiveMinimum":true,"type":"integer","maximum":6,"exclusiveMaximum":false})",
       {"4", "6"},
       {"3", "7"}},
      {R"({"type":"integer","minimum":100000000000000000000})", {"100000000000000000000"}, {"99999999999999999999"}},
  });
}

TEST(JsonSchema, ListsWithoutRepetition) {
  Check({
      {R"({"uniqueItems":true,"items":{"enum":["a","b",3]}})",
       {"[]", R"(["a"])", R"(["a","b",3])", R"(["b",3])"},
       {R"(["a","a"])", R"(["a",4])", "[,3]"}},
      {R"({"uniqueItems":true,"minItems":2,"maxItems":2,"items":{"enum":[1,2,3]}})",
       {"[1,2]", "[1,3]", "[2,3]"},
       {"[1]", "[1,1]", "[1,2,3]", "[3,"}},
      {R"({"uniqueItems":true,"items":{"type":["boolean","null"]}})", {"[null,true,false]", "[true]"}, {"[true,true]"}},
      {R"({"uniqueItems":true,"prefixItems":[{"type":"boolean"},{"type":"boolean"}]})",
       {"[]", "[true]", "[true,false]", "[false,true]"},
       {"[true,true]", "[true,false,true]"}},
      {R"({"uniqueItems":true,"prefixItems":[{"type":"string"},{"type":"integer"}]})",
       {R"(["a",1])"},
       {R"(["a","a"])"}},
      {R"({"uniqueItems":true,"maxItems":1,"items":{"type":"string"}})", {R"(["a"])"}, {R"(["a","b"])"}},
      {R"({"uniqueItems":false,"items":{"const":1}})", {"[1,1]"}, {"[2]"}},
  });
}

TEST(JsonSchema, EarlierDraftsAndOpenApi) {
  Check({
      {R"({"properties":{"a":{"type":"integer","nullable":true},"b":{"type":"null"}},"dependencies":{"a":["b"]}})",
       {"{}", R"({"a":null,"b":null})", R"({"a":1,"b":null})", R"({"b":null})"},
       {R"({"a":1})"}},
      {R"({"properties":{"a":true,"b":{"type":"integer"}},"dependencies":{"a":{"required":["b"]}}})",
       {R"({"a":"x","b":1})"},
       {R"({"a":"x"})"}},
      {R"({"properties":{"dependencies":{"type":"object","properties":{"type":{"type":"string"}}},"nullable":{"const":1}}})",
       {R"({"dependencies":{"type":"x"},"nullable":1})"},
       {R"({"dependencies":[]})"}},
      {R"({"$id":"http://x.org/a/b.json","$ref":"../c/./d.json","$defs":{"d":{"$id":"/c/d.json","const":1}}})",
       {"1"},
       {"2"}},
      {R"({"$id":"r","$ref":"list","$defs":{"foo":{"$dynamicAnchor":"items","type":"string"},
           "list":{"$id":"list","type":"array","items":{"$dynamicRef":"#items"},
                   "$defs":{"items":{"$dynamicAnchor":"items"}}}}})",
       {R"(["a"])"},
       {"[1]"}},
  });
}

TEST(JsonSchema, Combinations) {
  Check({
      {R"({"anyOf":[{"type":"null"},{"const":7}]})", {"null", "7"}, {"8"}},
      {R"({"allOf":[{"type":"string","minLength":2},{"maxLength":3}]})", {R"("ab")"}, {R"("a")", R"("abcd")", "1"}},
      {R"({"allOf":[{"properties":{"a":{"const":1}},"required":["a"]},{"properties":{"b":{"const":2}},"required":["b"]}]})",
       {R"({"a":1,"b":2})"},
       {R"({"a":1})"}},
      {R"({"oneOf":[{"type":"string"},{"type":"integer"}]})", {R"("a")", "1"}, {"null"}},
      {R"({"oneOf":[{"type":"integer","minimum":0},{"type":"integer","maximum":10}]})", {"-1", "11"}, {"5", "0", "10"}},
      {R"({"oneOf":[{"properties":{"t":{"const":"a"},"x":{"type":"integer"}},"required":["t","x"],"type":"object"},
                    {"properties":{"t":{"const":"b"}},"required":["t"],"type":"object"}]})",
       {R"({"t":"a","x":1})", R"({"t":"b"})"},
       {R"({"t":"a"})", R"({"t":"b","x":1})"}},
      {R"({"not":{"type":["object","array","string","boolean","null"]}})", {"1"}, {"null", "\"a\""}},
      {R"({"type":"string","not":{"enum":["a","bc"]}})", {R"("b")", R"("ab")"}, {R"("a")", R"("bc")", R"("\u0061")"}},
      {R"({"type":"object","properties":{"k":{"enum":["a","b"]},"v":{"type":"integer"}},"required":["k"],
           "if":{"properties":{"k":{"const":"a"}},"required":["k"]},"then":{"required":["v"]},
           "else":{"not":{"required":["v"]}}})",
       {R"({"k":"a","v":1})", R"({"k":"b"})"},
       {R"({"k":"a"})", R"({"k":"b","v":1})"}},
      {R"({"properties":{"a":{"const":1},"b":{"const":2}},"dependentRequired":{"a":["b"]}})",
       {"{}", R"({"b":2})", R"({"a":1,"b":2})"},
       {R"({"a":1})"}},
      {R"({"allOf":[{"properties":{"a":{"const":1}}}],"properties":{"b":{"const":2}},"unevaluatedProperties":false})",
       {"{}", R"({"a":1})", R"({"b":2,"a":1})"},
       {R"({"c":1})"}},
  });
}

TEST(JsonSchema, References) {
  Check({
      {R"({"$ref":"#/$defs/P","$defs":{"P":{"type":"object","properties":{"k":{"enum":["a","b"]}},"required":["k"]}}})",
       {R"({"k":"a"})"},
       {R"({"k":"c"})", "{}"}},
      {R"({"type":"object","properties":{"v":{"type":"integer"},"next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"required":["v","next"]})",
       {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":null}})"},
       {R"({"v":1})", R"({"v":1,"next":{}})"}},
      {R"({"$ref":"#node","$defs":{"n":{"$anchor":"node","type":"array","items":{"$ref":"#node"}}}})",
       {"[]", "[[],[[]]]"},
       {"[1]"}},
      {R"({"$id":"http://a.b/root.json","$ref":"item.json","$defs":{"i":{"$id":"item.json","type":"null"}}})",
       {"null"},
       {"1"}},
      {R"({"$ref":"#/$defs/a~1b%25","$defs":{"a/b%":{"const":1}}})", {"1"}, {"2"}},
      {R"({"$defs":{"a":{"type":"string"}},"$ref":"#/$defs/a","maxLength":1})", {R"("x")"}, {R"("xx")"}},
  });
}

TEST(JsonSchema, RefusesByName) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"type":"hiccup"})", "hiccup"},
      {R"({"type":123})", "123"},
      {R"(3)", "3"},
      {R"({"$ref":"#/$defs/missing"})", "#/$defs/missing"},
      {R"({"$ref":"http://example.com/a.json"})", "nothing is fetched"},
      {R"({"$ref":"file:///etc/passwd"})", "nothing is fetched"},
      {R"({"type":"string","pattern":"[.*"})", "not closed"},
      {R"({"type":"string","pattern":"(?=a)b"})", "looking ahead"},
      {R"({"type":"string","format":"hiccup"})", "\"format\""},
      {R"({"uniqueItems":true})", "\"uniqueItems\""},
      {R"({"uniqueItems":true,"items":{"type":"string"}})", "\"uniqueItems\""},
      {R"({"uniqueItems":true,"prefixItems":[{"type":"string"},{"minLength":1}]})", "\"uniqueItems\""},
      {R"({"multipleOf":0.123456789})", "\"multipleOf\""},
      {R"({"$ref":"y","$defs":{"x":{"$id":"x","$defs":{"a":{"$dynamicAnchor":"a"}},"$dynamicRef":"#a"},
           "y":{"$id":"y","$ref":"x","$defs":{"a":{"$dynamicAnchor":"a","type":"null"}}}}})",
       "\"$dynamicRef\""},
      {R"({"minimun":1})", "\"minimun\""},
      {R"({"properties":3})", "\"properties\""},
      {R"({"minLength":-1})", "minLength"},
      {R"({"minimum":"x"})", "minimum"},
      {R"({"required":["a"],"properties":{"a":{"$ref":"#"}}})", "no text"},
      {R"(false)", "no text"},
      {R"({"type":"string","enum":[1]})", "no text"},
      {R"({"type":"object","required":["a"],"properties":{"a":false}})", "no text"},
      {R"({"anyOf":[]})", "anyOf"},
      {R"({"not":{"multipleOf":3}})", "\"multipleOf\""},
      {R"({"items":{"properties":{"a":{"dependencies":3}}}})", "\"dependencies\""},
  };
  for (const auto& [schema, named] : cases) {
    const std::string refusal = Refused(schema);
    EXPECT_NE(refusal.find(named), std::string::npos) << schema << "\n  " << refusal;
  }
}

TEST(JsonSchema, OneSpaceStyle) {
  const auto texts =
      Schema(R"({"properties":{"a":{"items":{"type":"integer"}},"b":{"const":[1,2]}},"required":["a","b"]})", {true});
  EXPECT_TRUE(texts->Accept(R"({"a": [1, 2], "b": [1, 2]})"));
  EXPECT_FALSE(texts->Accept(R"({"a":[1,2],"b":[1,2]})"));
}

TEST(JsonSchema, HostileOnesEndSoon) {
  std::string deep, wide = R"({"type":"object","properties":{)";
  for (int i = 0; i < 60; ++i) deep += R"({"type":"object","properties":{"a":)";
  deep += "{}";
  for (int i = 0; i < 60; ++i) deep += "}}";
  for (int i = 0; i < 4000; ++i) {
    wide += (i > 0 ? "," : "") + std::string("\"property_") + std::to_string(i) + R"(":{"enum":[)";
    for (int j = 0; j < 20; ++j)
      wide += (j > 0 ? ",\"" : "\"") + std::string("value_") + std::to_string(i * 20 + j) + "\"";
    wide += "]}";
  }
  wide += "}}";
  std::string doubling = R"({"$ref":"#/$defs/0","$defs":{)";
  for (int i = 0; i < 40; ++i) {
    const std::string next = "{\"$ref\":\"#/$defs/" + std::to_string(i + 1) + "\"}";
    doubling += "\"" + std::to_string(i) + "\":{\"anyOf\":[" + next + "," + next + "]},";
  }
  doubling += R"("40":{}}})";
  std::string many = R"({"enum":["value")";
  for (int i = 0; i < 50000; ++i) many += ",\"value " + std::to_string(i) + "\"";
  many += "]}";
  for (const std::string& schema :
       {deep, wide, doubling, many, std::string(R"({"type":"string","pattern":"^((a+)+)+$"})"),
        std::string(R"({"type":"string","pattern":"((a{1,100}){1,100}){1,100}"})"),
        std::string(R"({"type":"string","pattern":"(.*a.{20}){3}"})"), std::string(R"({"minItems":1000000})"),
        std::string(R"({"minLength":1000000000000,"type":"string"})"),
        std::string(R"({"allOf":[{"$ref":"#"},{"$ref":"#"}]})"),
        std::string(R"({"anyOf":[{"$ref":"#"},{"type":"array","items":{"$ref":"#"}}]})")}) {
    const std::clock_t start = std::clock();  // of this process: others may keep the machine busy
    const std::string refusal = Refused(schema);
    const double spent = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_LT(spent, kSanitized ? 50 : 5) << schema.substr(0, 100);
    std::printf("%6.3f s  %s\n            %s\n", spent, schema.substr(0, 60).c_str(), refusal.c_str());
  }
}

}  // namespace
}  // namespace cambium::testing
