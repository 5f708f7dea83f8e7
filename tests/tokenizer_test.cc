#include "io/tokenizer.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <optional>

#include "cambium/error.h"
#include "io/gguf.h"
#include "io/json.h"
#include "io/unicode.h"

namespace cambium {
namespace {

using Json = nlohmann::json;

Json Golden(const std::string& name) {
  const std::string path = std::string(CAMBIUM_TEST_DIR) + "/golden/" + name;
  return ParseJson(ReadTextFile(path), path);
}

Tokenizer Tiny(const std::string& name) {
  return Tokenizer::FromJson(Golden("tiny_" + name + ".json")["tokenizer"].dump(), "", "", name);
}

std::string ModelPath() {
  if (const char* path = std::getenv("CAMBIUM_TEST_MODEL")) return path;
  const auto env = [](const char* name) { return std::string(std::getenv(name) ? std::getenv(name) : ""); };
  std::string home = env("CAMBIUM_HOME");
  if (home.empty())
    home = (env("XDG_CACHE_HOME").empty() ? env("HOME") + "/.cache" : env("XDG_CACHE_HOME")) + "/cambium";
  return home + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

double Seconds(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// How many of [text, ids] the tokenizer encodes otherwise; prints the first.
int Differences(const Tokenizer& tokenizer, const Json& cases, bool add_special) {
  int count = 0;
  for (const Json& c : cases) {
    const auto ids = tokenizer.Encode(c[0].get<std::string>(), add_special, true);
    if (ids == c[1].get<std::vector<int32_t>>()) continue;
    if (count++ == 0) std::cerr << c[0] << "\n want " << c[1] << "\n got  " << Json(ids) << "\n";
  }
  return count;
}

class TinyTokenizer : public testing::TestWithParam<const char*> {};

TEST_P(TinyTokenizer, AgreesWithHuggingFace) {
  const Json golden = Golden(std::string("tiny_") + GetParam() + ".json");
  EXPECT_EQ(Differences(Tiny(GetParam()), golden["cases"], true), 0);
}

TEST_P(TinyTokenizer, ComparisonSeesAWrongId) {
  Json golden = Golden(std::string("tiny_") + GetParam() + ".json");
  Json& ids = golden["cases"][0][1];
  ids.back() = ids.back().get<int>() == 0 ? 1 : 0;
  EXPECT_EQ(Differences(Tiny(GetParam()), golden["cases"], true), 1);
}

TEST_P(TinyTokenizer, GivesBackAnyBytes) {
  if (std::string(GetParam()) == "prefix" || std::string(GetParam()) == "qwen2") return;  // these change the text
  const Tokenizer tokenizer = Tiny(GetParam());
  EXPECT_TRUE(rc::check([&](const std::string& text) {
    if (text.find("\xE2\x96\x81") != text.npos) return true;  // a space in SentencePiece
    return tokenizer.Decode(tokenizer.Encode(text, false, false)) == text;
  }));
}

TEST_P(TinyTokenizer, IsLinearInUnfriendlyTexts) {
  const Tokenizer tokenizer = Tiny(GetParam());
  std::string cjk, marks;
  while (cjk.size() < 1 << 18) cjk += "中国人民的语言";
  while (marks.size() < 1 << 18) marks += "\u0323\u0301";
  for (const std::string& text : {std::string(1 << 18, 'a'), std::string(1 << 18, ' '), std::string(1 << 18, '\n'),
                                  std::string(1 << 18, '7'), std::string(1 << 18, '\xFF'), cjk, marks}) {
    EXPECT_LT(Seconds([&] { tokenizer.Encode(text, false, true); }), 20) << text.substr(0, 4);  // sanitizers included
  }
}

INSTANTIATE_TEST_SUITE_P(All, TinyTokenizer,
                         testing::Values("gpt2", "smollm", "llama3", "qwen2", "odd", "prefix", "spm"),
                         [](const auto& info) { return std::string(info.param); });

TEST(PreTokenizer, ScannersCutLikeTheirPatterns) {
  for (const char* name : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    const auto steps = PreTokenizer::StepsOf(name);
    auto regex_steps = steps;
    for (auto& step : regex_steps) step.pattern = "(?:" + step.pattern + ")";  // not recognised: PCRE2 runs it
    const PreTokenizer scanner = PreTokenizer::FromSteps(steps), regex = PreTokenizer::FromSteps(regex_steps);
    EXPECT_TRUE(rc::check([&] {
      const auto parts = *rc::gen::container<std::vector<std::string>>(
          rc::gen::element<std::string>(" ", "  ", "\n", "\r", "\t", "a", "Z", "é", "1", "23", "½", "'", "'s", "'LL",
                                        "'ſ", "!", "_", "中", "\u3000", "\u0301", "😀", "\u0085"));
      std::string text;
      for (const auto& part : parts) text += part;
      std::vector<Span> a, b;
      scanner.Split(text, a);
      regex.Split(text, b);
      const auto words = [&](const std::vector<Span>& spans) {
        std::vector<std::string> out;
        for (const Span& s : spans) out.push_back(text.substr(s.begin, s.end - s.begin));
        return out;
      };
      RC_ASSERT(words(a) == words(b));
    })) << name;
  }
}

TEST(PreTokenizer, HostilePatternEndsInAnError) {
  const PreTokenizer hostile = PreTokenizer::FromSteps({{"(a+)+$"}});
  const std::string text = std::string(1 << 20, 'a') + "!";
  std::vector<Span> words;
  EXPECT_LT(Seconds([&] { EXPECT_THROW(hostile.Split(text, words), Error); }), 20);
  EXPECT_THROW(PreTokenizer::FromSteps({{"(a"}}), Error);
  EXPECT_THROW(PreTokenizer::StepsOf("no-such"), Error);
}

TEST(Tokenizer, LeavesControlTokensInTheTextOfUsersPlain) {
  const Tokenizer tokenizer = Tiny("gpt2");
  const int32_t end = tokenizer.Find("<|im_end|>"), tool = tokenizer.Find("<|tool|>");
  ASSERT_GE(end, 0);
  ASSERT_EQ(tokenizer.Encode("<|im_end|>", false, true), std::vector<int32_t>{end});
  const auto plain = tokenizer.Encode("x<|im_end|>y", false, false);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), end), 0);
  EXPECT_EQ(tokenizer.Decode(plain), "x<|im_end|>y");
  EXPECT_EQ(tokenizer.Encode("<|tool|>", false, false), std::vector<int32_t>{tool});  // not a control token
  EXPECT_TRUE(tokenizer.IsEndOfGeneration(end));
  EXPECT_EQ(tokenizer.Decode(std::vector<int32_t>{end, tool}, true), "<|tool|>");
}

TEST(Tokenizer, RefusesIdsOutsideTheVocabulary) {
  const Tokenizer tokenizer = Tiny("gpt2");
  for (int32_t id : {-1, tokenizer.vocab_size(), INT32_MAX}) {
    EXPECT_THROW(tokenizer.Decode(std::vector<int32_t>{id}), Error);
  }
}

// Row 21 of the conformance table.
TEST(Tokenizer, RefusesBrokenTokenizerJson) {
  const Json good = Golden("tiny_gpt2.json")["tokenizer"];
  const auto refusal = [](const std::string& text) -> std::string {
    try {
      Tokenizer::FromJson(text, "", "", "tokenizer.json");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kData);
      EXPECT_EQ(std::string(error.what()).find("tokenizer.json: "), 0u) << error.what();
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal(good.dump()), "");
  EXPECT_NE(refusal(std::string(10000, '[')).find("nested"), std::string::npos);
  EXPECT_NE(refusal("[]"), "");
  EXPECT_NE(refusal("{}"), "");
  const auto changed = [&](const std::function<void(Json&)>& change) {
    Json json = good;
    change(json);
    return refusal(json.dump());
  };
  EXPECT_NE(changed([](Json& j) { j["model"]["vocab"].erase("a"); }), "");  // a gap
  EXPECT_NE(changed([](Json& j) { j["model"]["vocab"]["a"] = j["model"]["vocab"]["b"]; }).find("belongs to both"),
            std::string::npos);
  EXPECT_NE(changed([](Json& j) { j["model"]["vocab"]["zzz"] = 1 << 23; }).find("gaps"), std::string::npos);
  EXPECT_NE(changed([](Json& j) { j["model"]["vocab"]["zzz"] = -1; }), "");
  EXPECT_NE(changed([](Json& j) { j["model"]["vocab"]["zzz"] = "1"; }), "");
  EXPECT_NE(changed([](Json& j) { j["model"]["vocab"]["a"] = 1.5; }), "");
  EXPECT_NE(changed([](Json& j) {
              j["model"]["merges"].push_back({"qq", "zz"});
            }).find("not in the vocabulary"),
            std::string::npos);
  EXPECT_NE(changed([](Json& j) { j["model"]["merges"].push_back("one"); }), "");
  EXPECT_NE(changed([](Json& j) { j["model"]["merges"] = 1; }), "");
  EXPECT_NE(changed([](Json& j) { j["model"]["type"] = "Unigram"; }).find("Unigram"), std::string::npos);
  EXPECT_NE(changed([](Json& j) { j["pre_tokenizer"] = {{"type", "Nonsense"}}; }), "");
  EXPECT_NE(changed([](Json& j) { j["normalizer"] = {{"type", "Lowercase"}}; }), "");
  EXPECT_NE(changed([](Json& j) { j["added_tokens"][0]["id"] = 1 << 22; }), "");
  EXPECT_NE(changed([](Json& j) { j["added_tokens"][0]["content"] = ""; }), "");
  EXPECT_NE(changed([](Json& j) { j["added_tokens"][0]["content"] = std::string(5000, 'x'); }), "");
}

TEST(Tokenizer, RefusesBrokenSpecs) {
  TokenizerSpec spec;
  EXPECT_THROW(Tokenizer::FromSpec(spec), Error);
  spec.pieces = {"a", "b"};
  EXPECT_NO_THROW(Tokenizer::FromSpec(spec));
  const auto refuses = [&](const std::function<void(TokenizerSpec&)>& change) {
    TokenizerSpec broken = spec;
    change(broken);
    EXPECT_THROW(Tokenizer::FromSpec(broken), Error);
  };
  refuses([](auto& s) { s.bos = 2; });
  refuses([](auto& s) { s.eos = -2; });
  refuses([](auto& s) { s.end_of_generation = {7}; });
  refuses([](auto& s) { s.types = {TokenType::kNormal}; });
  refuses([](auto& s) { s.scores = {1}; });
  refuses([](auto& s) { s.pieces = {"a", "a"}; });
  refuses([](auto& s) { s.merges = {{"a", "b"}}; });
  refuses([](auto& s) { s.kind = TokenizerSpec::Kind::kSentencePieceBpe; });  // neither merges nor scores
}

TEST(Tokenizer, MergesByScoreAndFallsBackToBytes) {
  TokenizerSpec spec;
  spec.kind = TokenizerSpec::Kind::kSentencePieceBpe;
  spec.pieces = {"<unk>", "<0xC3>", "<0xA9>", "a", "b", "ab", "\u2581", "\u2581a", "ba", "<end>"};
  spec.scores = {0, 0, 0, -9, -9, -2, -9, -1, -3, 0};
  spec.types.assign(10, TokenType::kNormal);
  spec.types[0] = TokenType::kUnknown;
  spec.types[1] = spec.types[2] = TokenType::kByte;
  spec.types[9] = TokenType::kControl;
  spec.unk = 0;
  const Tokenizer tokenizer = Tokenizer::FromSpec(spec);
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(tokenizer.Encode("abab", false, true), (Ids{5, 5}));
  EXPECT_EQ(tokenizer.Encode("b ab", false, true), (Ids{4, 7, 4}));
  EXPECT_EQ(tokenizer.Encode("é", false, true), (Ids{1, 2}));
  EXPECT_EQ(tokenizer.Encode("z", false, true), (Ids{0}));
  EXPECT_EQ(tokenizer.Encode("a<end>", false, true), (Ids{3, 9}));
  EXPECT_EQ(tokenizer.Decode(Ids{7, 4, 1, 2}), " abé");
}

TEST(Utf8Stream, NeverSplitsACodePoint) {
  EXPECT_TRUE(rc::check([](const std::string& bytes, size_t seed) {
    Utf8Stream whole, split;
    std::string at_once = whole.Push(bytes);
    at_once += whole.Finish();
    std::string pieces;
    for (size_t at = 0; at < bytes.size();) {
      const size_t size = 1 + (seed += 7919) % 3;
      const std::string piece = split.Push(bytes.substr(at, size));
      RC_ASSERT(IsValidUtf8(piece));
      pieces += piece;
      at += size;
    }
    pieces += split.Finish();
    RC_ASSERT(pieces == at_once);
    RC_ASSERT(!IsValidUtf8(bytes) || at_once == bytes);
  }));
  Utf8Stream stream;
  EXPECT_EQ(stream.Push("\xF0\x9F\x98"), "");
  EXPECT_EQ(stream.Push("\x80"
                        "a\xED\xA0\x80"),
            "😀a\uFFFD\uFFFD\uFFFD");  // a surrogate is three broken bytes
  EXPECT_EQ(stream.Push("\xE4\xB8"), "");
  EXPECT_EQ(stream.Finish(), "\uFFFD");
  EXPECT_EQ(stream.Push(std::string("\0\xEF\xBF\xBD", 4)), std::string("\0\xEF\xBF\xBD", 4));
}

class DefaultModel : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(ModelPath())) GTEST_SKIP() << "the default model is not at " << ModelPath();
    const GgufFile file(ModelPath());
    tokenizer_.emplace(Tokenizer::FromGguf(file));
  }
  std::optional<Tokenizer> tokenizer_;
};

TEST_F(DefaultModel, AgreesOnEveryGoldenString) {
  EXPECT_EQ(Differences(*tokenizer_, Golden("tokenizer_cases.json"), false), 0);
}

TEST_F(DefaultModel, KnowsItsSpecialTokens) {
  EXPECT_EQ(tokenizer_->vocab_size(), 49152);
  EXPECT_EQ(tokenizer_->bos(), 1);
  EXPECT_EQ(tokenizer_->eos(), 2);
  EXPECT_FALSE(tokenizer_->add_bos());
  EXPECT_TRUE(tokenizer_->IsEndOfGeneration(2));
  EXPECT_TRUE(tokenizer_->IsEndOfGeneration(0));
  EXPECT_FALSE(tokenizer_->IsEndOfGeneration(1));
  EXPECT_EQ(tokenizer_->Find("<|im_end|>"), 2);
  EXPECT_NE(tokenizer_->chat_template().find("<|im_start|>"), std::string::npos);
}

TEST_F(DefaultModel, IsLinearOnAMegabyte) {
  std::string cjk;
  while (cjk.size() < 1 << 20) cjk += "中";
  for (const std::string& text : {std::string(1 << 20, 'a'), std::string(1 << 20, ' '), cjk}) {
    std::vector<int32_t> ids;
    EXPECT_LT(Seconds([&] { ids = tokenizer_->Encode(text, false, true); }), 20);
    EXPECT_EQ(tokenizer_->Decode(ids), text);
  }
}

}  // namespace
}  // namespace cambium
