// `generate --jsonl` and `score --jsonl` from outside: answers that depend on their record alone, shards, restarts, bad
// lines.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "temp_folder.h"
#include "test_model.h"

namespace cambium {
namespace {

using nlohmann::json;

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class Records : public testing::Test {
 protected:
  void SetUp() override {
    model_ = DefaultTestModel();
    if (model_.empty()) GTEST_SKIP() << "the default model is not in the cache; ./try fetches it";
    std::ofstream file(in_);
    file << R"({"id": "a", "prompt": "Once upon a time", "max_tokens": 12})"
         << "\n\n"
         << R"({"id": "b", "messages": [{"role": "user", "content": "Say hello."}], "temperature": 0, "max_tokens": 6})"
         << "\n"
         << R"({"prompt": [504, 2123], "max_tokens": 5, "logprobs": 2, "seed": 4})"
         << "\n"
         << R"({"id": "long", "prompt": ")" << std::string(30000, 'x') << R"("})"
         << "\n"
         << R"({"id": "field", "prompt": "x", "temprature": 1})"
         << "\n"
         << R"({"broken)"
         << "\n"
         << R"({"id": "c", "prompt": "The old lighthouse keeper", "max_tokens": 9, "stop": [" the"], "draft": "none"})"
         << "\n"
         << R"({"id": "a", "prompt": "Once upon a time", "max_tokens": 12})"
         << "\n";
  }
  int Run(const std::string& arguments) {
    const int status = std::system(
        ("'" CAMBIUM_CLI "' " + arguments + " -c 512 -t 2 2> '" + (folder_ / "err") + "' < /dev/null").c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  int Generate(const std::string& out, const std::string& more = "") {
    return Run("generate '" + model_ + "' --jsonl '" + in_ + "' -o '" + (folder_ / out) + "' " + more);
  }

  const TempFolder folder_;
  std::string in_ = folder_ / "in.jsonl", model_;
};

TEST_F(Records, AreAnsweredInOrderAndBadOnesAreNamed) {
  ASSERT_EQ(Generate("out.jsonl"), 0) << ReadAll(folder_ / "err");
  std::vector<json> answers;
  std::ifstream file(folder_ / "out.jsonl");
  for (std::string line; std::getline(file, line);) answers.push_back(json::parse(line));
  ASSERT_EQ(answers.size(), 5u);
  EXPECT_EQ(answers[0]["id"], "a");
  EXPECT_EQ(answers[1]["id"], "b");
  EXPECT_EQ(answers[2]["id"], 4) << "the number of its line";
  EXPECT_EQ(answers[3]["id"], "c");
  EXPECT_EQ(answers[0], answers[4]) << "the same record, the same answer";
  EXPECT_EQ(answers[0]["usage"]["completion_tokens"], answers[0]["ids"].size());
  EXPECT_EQ(answers[2]["top_logprobs"][0].size(), 2u);
  EXPECT_EQ(answers[3]["text"].get<std::string>().find(" the"), std::string::npos);
  // A record alone is answered the same.
  std::ofstream(folder_ / "one.jsonl") << R"({"id": "a", "prompt": "Once upon a time", "max_tokens": 12})";
  ASSERT_EQ(
      Run("generate '" + model_ + "' --jsonl '" + (folder_ / "one.jsonl") + "' -o '" + (folder_ / "one.out") + "'"), 0);
  EXPECT_EQ(json::parse(ReadAll(folder_ / "one.out")), answers[0]);

  std::vector<std::string> errors;
  std::ifstream bad(folder_ / "out.jsonl.errors");
  for (std::string line; std::getline(bad, line);) errors.push_back(line);
  ASSERT_EQ(errors.size(), 3u);
  EXPECT_EQ(json::parse(errors[0])["id"], "long");
  EXPECT_NE(errors[0].find("the context holds 512"), std::string::npos) << errors[0];
  EXPECT_NE(errors[1].find("temprature"), std::string::npos);
  EXPECT_EQ(json::parse(errors[2])["line"], 7);
}

TEST_F(Records, ShardsAndRestartsGiveTheSameBytes) {
  ASSERT_EQ(Generate("whole.jsonl"), 0);
  const std::string whole = ReadAll(folder_ / "whole.jsonl"), errors = ReadAll(folder_ / "whole.jsonl.errors");
  std::string joined;
  for (int i = 0; i < 3; ++i) {
    const std::string name = "shard" + std::to_string(i);
    ASSERT_EQ(Generate(name, "--shard " + std::to_string(i) + "/3"), 0);
    joined += ReadAll(folder_ / name);
  }
  EXPECT_EQ(joined, whole);
  // Cut off inside a line, at several places.
  for (const size_t bytes : {size_t{10}, whole.size() / 2, whole.size() - 3}) {
    std::ofstream(folder_ / "whole.jsonl", std::ios::binary) << whole.substr(0, bytes);
    ASSERT_EQ(Generate("whole.jsonl"), 0) << ReadAll(folder_ / "err");
    EXPECT_EQ(ReadAll(folder_ / "whole.jsonl"), whole) << bytes;
    EXPECT_EQ(ReadAll(folder_ / "whole.jsonl.errors"), errors) << bytes;
  }
  EXPECT_EQ(Generate("whole.jsonl", "--temp 0.3"), 2);
  EXPECT_NE(ReadAll(folder_ / "err").find("begun with temperature"), std::string::npos) << ReadAll(folder_ / "err");
  std::ofstream(in_) << R"({"id": "other", "prompt": "x"})"
                     << "\n";
  EXPECT_EQ(Generate("whole.jsonl"), 3) << "answers to another input";
  EXPECT_EQ(ReadAll(folder_ / "whole.jsonl"), whole);
  for (const char* shard : {"3/3", "-1/2", "1", "a/b", "0/0"})
    EXPECT_EQ(Generate("x", std::string("--shard ") + shard), 2);
}

TEST_F(Records, AreScored) {
  std::ofstream(in_) << R"({"id": 1, "text": "The capital of France is Paris."})"
                     << "\n"
                     << R"({"id": 2, "text": "x"})"
                     << "\n";
  ASSERT_EQ(Run("score '" + model_ + "' --jsonl '" + in_ + "' -o '" + (folder_ / "scores") + "'"), 0)
      << ReadAll(folder_ / "err");
  const json score = json::parse(ReadAll(folder_ / "scores"));
  EXPECT_EQ(score["id"], 1);
  EXPECT_EQ(score["logprobs"].size() + 1, score["ids"].size());
  EXPECT_NE(ReadAll(folder_ / "scores.errors").find("at least 2 tokens"), std::string::npos);
}

}  // namespace
}  // namespace cambium
