// What a tokenizer.json holds around its model, against Hugging Face tokenizers: tools/make_pipeline_golden.py.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <set>

#include "cambium/error.h"
#include "file_testing.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "io/json.h"
#include "io/tokenizer.h"
#include "io/tokenizer_files.h"
#include "temp_folder.h"

namespace cambium {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

const Json& Golden() {
  static const Json golden = [] {
    const std::string path = std::string(CAMBIUM_TEST_DIR) + "/golden/tokenizer_pipelines.json";
    return ParseJson(ReadTextFile(path), path);
  }();
  return golden;
}

std::string TokenizerJson(const Json& variant) {
  Json json = variant["tokenizer"];
  json["model"] = Golden()["models"][variant["model"].get<std::string>()];
  return json.dump();
}

const Json& Variant(const std::string& name) {
  for (const Json& variant : Golden()["variants"]) {
    if (variant["name"] == name) return variant;
  }
  ADD_FAILURE() << "no variant " << name;
  return Golden()["variants"][0];
}

// Counts the texts that `tokenizer` encodes or decodes otherwise than the variant's cases; names the first.
int Differences(const Tokenizer& tokenizer, const Json& variant, bool decode) {
  int count = 0;
  for (size_t i = 0; i < variant["cases"].size(); ++i) {
    const Json& golden = variant["cases"][i];
    const std::string text = Golden()["texts"][i].get<std::string>();
    const Ids want = golden[0].get<Ids>(), got = tokenizer.Encode(text, true, true);
    const std::string all = tokenizer.Decode(want), plain = tokenizer.Decode(want, true);
    if (want == got && (!decode || (all == golden[1] && plain == golden[2]))) continue;
    if (count++ == 0) {
      std::cerr << variant["name"] << ": " << Json(text) << "\n want " << golden << "\n got  "
                << Json({Json(got), all, plain}).dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
    }
  }
  return count;
}

TEST(TokenizerPipeline, AgreesWithHuggingFace) {
  ASSERT_GT(Golden()["variants"].size(), 50u);
  for (const Json& variant : Golden()["variants"]) {
    const std::string name = variant["name"];
    EXPECT_EQ(Differences(Tokenizer::FromJson(TokenizerJson(variant), "", "", name), variant, true), 0) << name;
  }
}

TEST(TokenizerPipeline, ComparisonSeesAWrongRule) {
  Json variant = Variant("words-first-whole");
  const Tokenizer tokenizer = Tokenizer::FromJson(TokenizerJson(Variant("words-always-whole")), "", "", "other");
  EXPECT_GT(Differences(tokenizer, variant, false), 5);
}

// Through GGUF and back, and through tokenizer.json as we write it: the same ids, or a refusal that names the rule.
TEST(TokenizerPipeline, KeepsItsRulesThroughConversion) {
  std::set<std::string> refused;
  for (const Json& variant : Golden()["variants"]) {
    const std::string name = variant["name"];
    const TempFolder folder;
    testing::WriteFile(folder / "tokenizer.json", TokenizerJson(variant));
    WithTokenizerJson(folder / "tokenizer.json", [&](const TokenizerSpec& spec) {
      std::filesystem::create_directory(folder / "json");
      WriteTokenizerJson(spec, folder / "json");
    });
    EXPECT_EQ(Differences(Tokenizer::FromJsonFile(folder / "json/tokenizer.json"), variant, true), 0) << name;
    try {
      WithTokenizerJson(folder / "tokenizer.json", [&](const TokenizerSpec& spec) {
        GgufWriter writer;
        SetTokenizer(writer, spec, static_cast<int64_t>(spec.pieces.size()));
        writer.Write(folder / "t.gguf");
      });
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kData);
      EXPECT_NE(std::string(error.what()).find("GGUF"), std::string::npos) << name << ": " << error.what();
      refused.insert(name);
      continue;
    }
    const GgufFile file(folder / "t.gguf");
    EXPECT_EQ(Differences(Tokenizer::FromGguf(file), variant, true), 0) << name;
    std::filesystem::create_directory(folder / "back");
    WriteTokenizerJson(TokenizerSpecFromGguf(file), folder / "back");
    EXPECT_EQ(Differences(Tokenizer::FromJsonFile(folder / "back/tokenizer.json"), variant, true), 0) << name;
  }
  EXPECT_EQ(refused, (std::set<std::string>{
                         "bytes-digits", "bytes-literal", "bytes-plain-whole", "bytes-prefix-whole",  // no such `pre`
                         "bytes-prepend", "glued-extra-meta", "words-extra-meta",                     // normalizers
                         "post-nested", "post-nested-bytes", "post-two", "post-two-bytes",            // more than bos
                         "unfused-first", "words-digits", "words-digits-before"}));
}

std::string Refusal(const Json& tokenizer, const std::string& config = "") {
  try {
    Tokenizer::FromJson(tokenizer.dump(), config, "", "t.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kData);
    return error.what();
  }
  return "";
}

TEST(TokenizerPipeline, RefusesByNameWhatItDoesNotKnow) {
  const Json good = Json::parse(TokenizerJson(Variant("words-first-whole")));
  const Json bytes = Json::parse(TokenizerJson(Variant("bytes-plain-regex")));
  ASSERT_EQ(Refusal(good), "");
  ASSERT_EQ(Refusal(bytes), "");
  const auto refuses = [](Json json, const char* pointer, const Json& value, const std::string& name) {
    json[Json::json_pointer(pointer)] = value;
    EXPECT_NE(Refusal(json).find(name), std::string::npos) << value << ": \"" << Refusal(json) << "\"";
  };
  refuses(good, "/pre_tokenizer/prepend_scheme", "second", "prepend_scheme \"second\"");
  refuses(good, "/pre_tokenizer/prepend_scheme", 1, "prepend_scheme");
  refuses(good, "/pre_tokenizer/add_prefix_space", false, "add_prefix_space is false");
  refuses(good, "/pre_tokenizer/replacement", "_", "replacement \"_\"");
  refuses(good, "/pre_tokenizer/split", "yes", "split");
  refuses(good, "/normalizer", {{"type", "Precompiled"}}, "Precompiled");
  refuses(good, "/normalizer", {{"type", "NFKC"}}, "NFKC");
  refuses(good, "/normalizer", {{"type", "Prepend"}, {"prepend", "x"}}, "Prepend \"x\"");
  refuses(good, "/normalizer", {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "b"}},
          "Replace \"a\"");
  refuses(good, "/decoder", {{"type", "WordPiece"}}, "WordPiece");
  refuses(good, "/decoder", {{"type", "Strip"}, {"content", "x"}, {"start", 1}, {"stop", 0}}, "Strip");
  refuses(good, "/post_processor", {{"type", "Mystery"}}, "post_processor \"Mystery\"");
  refuses(good, "/post_processor/single", Json::array(), "0 times");
  refuses(good, "/post_processor/single/0", {{"Sequence", {{"id", "B"}}}}, "single");
  refuses(good, "/post_processor/special_tokens/<s>/ids", {1 << 20}, "outside the vocabulary");
  refuses(good, "/post_processor", {{"type", "RobertaProcessing"}, {"sep", {"</s>", -1}}, {"cls", {"<s>", 1}}},
          "outside");
  refuses(good, "/post_processor", {{"type", "RobertaProcessing"}, {"sep", "</s>"}}, "cls");
  refuses(good, "/model/dropout", 0.1, "dropout");
  refuses(bytes, "/pre_tokenizer/use_regex", 3, "use_regex");
  const Json digits = {{"type", "Digits"}, {"individual_digits", true}};
  const auto steps = [](Json a, Json b) { return Json{{"type", "Sequence"}, {"pretokenizers", {a, b}}}; };
  Json prefixed = bytes["pre_tokenizer"];
  prefixed["add_prefix_space"] = true;
  refuses(bytes, "/pre_tokenizer", steps(digits, prefixed), "adds a space to words");
  refuses(bytes, "/pre_tokenizer", steps(prefixed, digits), "\"Digits\" after ByteLevel");
  refuses(good, "/pre_tokenizer", steps(good["pre_tokenizer"], bytes["pre_tokenizer"]), "ByteLevel");
  EXPECT_NE(Refusal(good, R"({"split_special_tokens": true})").find("split_special_tokens"), std::string::npos);
  EXPECT_NE(Refusal(good, R"({"added_tokens_decoder": {"99999": {"content": "<new>"}}})").find("<new>"),
            std::string::npos);
  EXPECT_NE(Refusal(good, R"({"added_tokens_decoder": {"": {"content": "<s>"}}})"), "");
}

TEST(TokenizerPipeline, TokenizerConfigHasTheLastWord) {
  const std::string json = TokenizerJson(Variant("words-first-whole"));
  const auto ids = [&](const std::string& config) {
    return Tokenizer::FromJson(json, config, "", "t.json").Encode("hi", true, true);
  };
  const Ids plain = Tokenizer::FromJson(json, "", "", "t.json").Encode("hi", false, true);
  const auto with = [&](Ids before, const Ids& after) {
    before.insert(before.end(), plain.begin(), plain.end());
    before.insert(before.end(), after.begin(), after.end());
    return before;
  };
  EXPECT_EQ(ids(""), with({1}, {}));
  EXPECT_EQ(ids(R"({"bos_token": "<s>", "add_bos_token": true})"), with({1}, {}));
  EXPECT_EQ(ids(R"({"bos_token": "<s>", "add_bos_token": false})"), plain);
  EXPECT_EQ(ids(R"({"eos_token": "</s>", "add_eos_token": true})"), with({1}, {2}));
  EXPECT_EQ(ids(R"({"eos_token": "</s>", "add_eos_token": false, "legacy": true})"), with({1}, {}));
  // An added token's flags, as transformers reads them.
  const std::string strips =
      R"({"added_tokens_decoder": {"3": {"content": "[INST]", "rstrip": true, "special": true}}})";
  const Tokenizer tokenizer = Tokenizer::FromJson(json, strips, "", "t.json");
  EXPECT_EQ(tokenizer.Encode("[INST]  hi", false, true), tokenizer.Encode("[INST]hi", false, true));
}

}  // namespace
}  // namespace cambium
