// A model that holds NaN: every verb that reads a loss off its logits says so in one line, with exit code 1.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "file_testing.h"
#include "io/safetensors.h"

namespace cambium {
namespace {

using nlohmann::json;

const std::string kBase = std::string(CAMBIUM_TEST_DIR) + "/golden/families/llama";

// A vocabulary of the letters a to z, one token each.
json LetterTokenizer() {
  json vocabulary = json::object();
  for (int i = 0; i < 26; ++i) vocabulary[std::string(1, static_cast<char>('a' + i))] = i;
  return {{"version", "1.0"},
          {"added_tokens", json::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", json::array()}}}};
}

class NonFinite : public ::testing::Test {
 protected:
  NonFinite() {
    for (const char* name : {"good", "nan"}) {
      const std::string to = folder_ / name;
      std::filesystem::create_directories(to);
      for (const char* file : {"config.json", "model.safetensors"})
        std::filesystem::copy_file(kBase + "/" + file, to + "/" + file);
      testing::WriteFile(to + "/tokenizer.json", LetterTokenizer().dump());
    }
    const std::string path = folder_ / "nan/model.safetensors";
    std::string bytes = testing::ReadFile(path);
    {
      const SafetensorsFile file(path);
      for (const NamedTensor& tensor : file.tensors()) {
        if (tensor.name != "model.layers.1.mlp.down_proj.weight") continue;
        const bool wide = tensor.view.dtype == DType::kF32;
        const uint32_t nan = 0x7fc00000;
        const uint16_t half = 0x7fc0;  // of bf16; a NaN of f16 too
        wide ? std::memcpy(bytes.data() + tensor.offset, &nan, 4) : std::memcpy(bytes.data() + tensor.offset, &half, 2);
      }
    }
    testing::WriteFile(path, bytes);
    testing::WriteFile(folder_ / "text.txt", std::string(600, 'a') + "bcdefgh");
    testing::WriteFile(folder_ / "data.jsonl", "{\"text\":\"abcabcabc\"}\n{\"text\":\"xyzxyz\"}\n");
  }

  int Run(const std::string& arguments) {
    const int status = std::system(
        ("'" CAMBIUM_CLI "' " + arguments + " >'" + (folder_ / "out") + "' 2>'" + (folder_ / "err") + "' </dev/null")
            .c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  // Code 0 on the good model, 1 and one error line that says why on the other.
  void Check(const std::string& verb, const std::string& rest) {
    SCOPED_TRACE(verb + " " + rest);
    EXPECT_EQ(Run(verb + " '" + (folder_ / "good") + "' " + rest), 0) << testing::ReadFile(folder_ / "err");
    std::filesystem::remove_all(folder_ / "run");
    EXPECT_EQ(Run(verb + " '" + (folder_ / "nan") + "' " + rest), 1);
    const std::string err = testing::ReadFile(folder_ / "err");
    const size_t at = err.find("error: ");
    ASSERT_NE(at, std::string::npos) << err;
    EXPECT_NE(err.find("not finite", at), std::string::npos) << err;
    EXPECT_EQ(err.find("error: ", at + 1), std::string::npos) << err;
    EXPECT_EQ(testing::ReadFile(folder_ / "out").find("nan"), std::string::npos);
  }
  const TempFolder folder_;
};

TEST_F(NonFinite, ScoreAndEval) {
  for (const char* output : {"", "--json"}) {
    Check("score", "-p hello " + std::string(output));
    Check("eval", "-f '" + (folder_ / "text.txt") + "' -c 32 " + output);
    Check("eval", "--jsonl '" + (folder_ / "data.jsonl") + "' " + output);
    Check("score", "--exact -p hello " + std::string(output));
  }
  Check("generate", "-p hello -n 2");
}

TEST_F(NonFinite, Train) {
  const std::string data = "--data '" + (folder_ / "data.jsonl") + "' --seq-len 32 --steps 1 -q ";
  Check("train", data + "--yes -o '" + (folder_ / "run") + "'");
}

TEST_F(NonFinite, MergeWritesNothing) {
  const std::string lora = std::string(CAMBIUM_TEST_DIR) + "/golden/peft/lora";
  Check("merge", "--graft '" + lora + "' --threshold 1e9 -o '" + (folder_ / "merged.gguf") + "'");
}

}  // namespace
}  // namespace cambium
