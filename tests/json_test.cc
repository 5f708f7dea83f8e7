#include "io/json.h"

#include <gtest/gtest.h>

#include <fstream>

#include "cambium/error.h"
#include "temp_folder.h"

namespace cambium {
namespace {

std::string Refusal(std::string_view text, JsonLimits limits = {}) {
  try {
    ParseJson(text, "a.json", limits);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kData);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "";
}

TEST(Json, ParsesEveryKindOfValue) {
  const auto json = ParseJson(R"({"a":[1,-2,3.5,true,null,"\u00e9\ud83d\ude00"],"b":{}})", "a.json");
  EXPECT_EQ(json.dump(), R"({"a":[1,-2,3.5,true,null,"é😀"],"b":{}})");
}

TEST(Json, KeepsTheOrderOfKeysWhenAsked) {
  EXPECT_EQ(ParseOrderedJson(R"({"b":1,"a":{"d":2,"c":3}})", "a.json").dump(), R"({"b":1,"a":{"d":2,"c":3}})");
}

TEST(Json, NamesFileLineAndOffset) {
  const std::string why = Refusal("{\n\"a\": 1,\n\"b\": tru }");
  EXPECT_EQ(why.find("a.json: line 3, offset "), 0u) << why;
}

TEST(Json, RefusesMalformedText) {
  for (const char* text : {"", " ", "{", "[1,]", "{\"a\" 1}", "[1] 2", "nul", "\"\xff\"", "\"\\ud800\"", "1e999", "'a'",
                           "[1 2]", "\"a\nb\"", "NaN"}) {
    EXPECT_NE(Refusal(text), "") << text;
  }
  EXPECT_EQ(Refusal("[1]"), "");
}

TEST(Json, AByteZeroIsNoEndOfTheText) {
  EXPECT_EQ(Refusal(std::string_view("[1,\n2]\0 [3]", 12)), "a.json: line 2, offset 6: a byte 0, which no JSON holds");
  EXPECT_NE(Refusal(std::string_view("[1]\0", 4)), "");
}

TEST(Json, RefusesDuplicateKeys) {
  EXPECT_NE(Refusal(R"({"a":1,"b":{"a":2,"a":3}})").find("duplicate key \"a\""), std::string::npos);
  EXPECT_EQ(Refusal(R"({"a":1,"b":{"a":2}})"), "");
  EXPECT_THROW(ParseOrderedJson(R"({"a":1,"a":1})", "x"), Error);
}

TEST(Json, RefusesDepthSizeAndCount) {
  const std::string deep = std::string(10000, '[') + std::string(10000, ']');
  EXPECT_NE(Refusal(deep).find("nested deeper than 128"), std::string::npos);
  EXPECT_EQ(Refusal(std::string(128, '[') + std::string(128, ']')), "");
  EXPECT_NE(Refusal("[1,2,3]", {.max_bytes = 6}), "");
  EXPECT_NE(Refusal("[1,2,3]", {.max_values = 3}), "");
  EXPECT_EQ(Refusal("[1,2,3]", {.max_values = 4}), "");
}

TEST(Json, ReadsFilesWithinTheirLimit) {
  const TempFolder folder;
  const std::string path = folder / "text.txt";
  std::ofstream(path) << "hello";
  EXPECT_EQ(ReadTextFile(path), "hello");
  EXPECT_THROW(ReadTextFile(path, 4), Error);
  EXPECT_THROW(ReadTextFile(path + ".missing"), Error);
}

}  // namespace
}  // namespace cambium
