// The program from outside: what it prints where, and its exit codes.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "temp_folder.h"
#include "test_model.h"
#include "tiny_llama.h"

namespace cambium {
namespace {

using nlohmann::json;

struct Outcome {
  int code = 0;
  std::string out, err;
};

std::string ReadAll(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Runs `cambium ARGUMENTS` in a shell, whose redirections and pipes may follow the arguments.
Outcome Cambium(const std::string& arguments, const std::string& before = "") {
  const TempFolder folder;
  const std::string out = folder / "out", err = folder / "err";
  const std::string command =
      "{ " + before + "'" CAMBIUM_CLI "' " + arguments + "; } > '" + out + "' 2> '" + err + "' < /dev/null";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), ReadAll(out), ReadAll(err)};
}

// One line, "error: ...", with `part` in it; nothing on stdout.
void ExpectError(const std::string& arguments, int code, const std::string& part, const std::string& before = "") {
  SCOPED_TRACE(arguments);
  const Outcome run = Cambium(arguments, before);
  EXPECT_EQ(run.code, code);
  EXPECT_EQ(run.out, "");
  EXPECT_EQ(run.err.rfind("error: ", 0), 0u) << run.err;
  EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
  EXPECT_NE(run.err.find(part), std::string::npos) << run.err;
}

TEST(Cli, AdaptersAreConvertedWhereTheyCanBe) {
  const std::string golden = std::string(CAMBIUM_TEST_DIR) + "/golden/", base = " --base " + golden + "families/llama";
  const TempFolder out;
  const auto convert = [&](const std::string& from, const std::string& to, const std::string& flags) {
    return "convert " + from + " " + (out / to) + base + flags;
  };
  EXPECT_EQ(Cambium(convert(golden + "peft/lora", "mlx", " --dialect mlx")).code, 0);
  EXPECT_EQ(Cambium(convert((out / "mlx"), "a.gguf", "")).code, 0);
  EXPECT_EQ(Cambium(convert((out / "a.gguf"), "peft", "")).code, 0);
  const json about = json::parse(Cambium("inspect --json " + (out / "mlx")).out)["adapter"];
  EXPECT_EQ(about["dialect"], "MLX");
  EXPECT_EQ(about["linears"]["v_proj"], json({64, 32}));
  EXPECT_NE(Cambium("inspect " + (out / "a.gguf")).out.find("GGUF"), std::string::npos);
  ExpectError(convert(golden + "grafts/prefix", "x.gguf", ""), 2, "keys and values in the cache");
  ExpectError(convert(golden + "grafts/ia3", "x", " --dialect mlx"), 2, "full rank");
  ExpectError(convert(golden + "grafts/houlsby", "x", " --dialect peft"), 2, "only adapterhub's files hold one");
  ExpectError(convert(golden + "peft/dora", "x.gguf", ""), 2, "DoRA");
  ExpectError(convert(golden + "peft/lora", "x", " --dialect gguf"), 2, ".gguf");
}

TEST(Cli, ModelsAreSplitAndJoined) {
  const std::string llama = "'" CAMBIUM_TEST_DIR "/golden/families/llama' ";
  const TempFolder out;
  ASSERT_EQ(Cambium("convert " + llama + (out / "whole.gguf")).code, 0);
  const Outcome split = Cambium("convert " + llama + (out / "m.gguf") + " --split-size 50K --json");
  ASSERT_EQ(split.code, 0) << split.err;
  const std::string first = json::parse(split.out)["path"];
  EXPECT_NE(first.find("m-00001-of-0000"), std::string::npos) << first;
  EXPECT_FALSE(std::filesystem::exists(out / "m.gguf"));
  for (const auto& entry : std::filesystem::directory_iterator(out.path())) {
    // A part is one tensor at least, and the first holds what is said of the model.
    if (entry.path() != out / "whole.gguf") EXPECT_LT(entry.file_size(), 70000u) << entry.path();
  }
  const auto tensors = [&](const std::string& path) {  // but for their places
    json list = json::parse(Cambium("inspect --json '" + path + "'").out)["tensors"];
    for (json& tensor : list) tensor.erase("offset");
    return list;
  };
  EXPECT_EQ(tensors(first), tensors(out / "whole.gguf"));
  ASSERT_EQ(Cambium("convert '" + first + "' " + (out / "joined.gguf")).code, 0);
  EXPECT_EQ(ReadAll(out / "joined.gguf"), ReadAll(out / "whole.gguf"));
  for (const char* size : {"x", "0", "0x", "2T", "1.5G", "99999999999G"}) {
    ExpectError("convert " + llama + (out / "bad.gguf") + " --split-size " + size, 2, "--split-size");
  }
  ExpectError("convert '" + (out / "whole.gguf") + "' " + (out / "directory") + " --split-size 50K", 2, "--split-size");
}

TEST(Cli, UsageErrorsAreOneLineAndCodeTwo) {
  ExpectError("", 2, "a verb is required");
  ExpectError("grow", 2, "unknown verb `grow`");
  ExpectError("generate", 2, "MODEL is required");
  ExpectError("generate m --no-such-flag", 2, "--no-such-flag");
  ExpectError("generate m -n many -p x", 2, "many");
  ExpectError("generate m", 2, "no text");
  ExpectError("generate m -p x --ids 1", 2, "more than one");
  ExpectError("generate m -p ''", 2, "the text is empty");
  ExpectError("generate m -", 2, "standard input: the text is empty");
  ExpectError("generate m -p \"$(printf 'ab\\377c')\"", 2, "byte 0xff at offset 2");
  ExpectError("generate m -p x --temp nan", 2, "temperature is nan, expected");
  ExpectError("generate m -p x --temp -1", 2, "temperature is -1");
  ExpectError("generate m -p x --top-p 1.5", 2, "top-p is 1.5");
  ExpectError("generate m -p x --min-p inf", 2, "min-p is inf");
  ExpectError("generate m -p x --top-k -3", 2, "top-k is -3");
  ExpectError("generate m -p x -n -2", 2, "-n: -2");
  ExpectError("generate m -p x --repeat-penalty 0", 2, "repeat-penalty is 0");
  ExpectError("generate m -p x --stop ''", 2, "--stop");
  for (const char* bias : {"x", "5", "5+", "+5", "-5+1", "5+nan", "5+1x", "99999999999+1"}) {
    ExpectError(std::string("generate m -p x --logit-bias ") + bias, 2, "--logit-bias");
  }
  ExpectError("generate m -p x -t -1", 2, "--threads");
  ExpectError("generate m -p x -c -1", 2, "--ctx-size");
  ExpectError("generate m -p x --kv-type q4", 2, "--kv-type");
  ExpectError("generate m -p x --draft-rows 0", 2, "--draft-rows: 0");
  ExpectError("generate m -p x --draft-rows 1025", 2, "--draft-rows: 1025");
  ExpectError("generate m -p x --verify exact", 2, "--verify \"exact\"");
  ExpectError("generate m -p x --verify typical:epsilon=2", 2, "epsilon=2");
  ExpectError("completion tcsh", 2, "tcsh");
}

TEST(Cli, WrongNamesComeWithTheNearest) {
  ExpectError("gnerate m", 2, "unknown verb `gnerate`, the nearest is generate");
  ExpectError("generate m --temperatur 0 -p x", 2, "unknown option --temperatur, the nearest is --temperature");
  ExpectError("generate m --temperatur=0 -p x", 2, "unknown option --temperatur, the nearest is --temperature");
  ExpectError("generate m -p --temp --tmp 0", 2, "unknown option --tmp, the nearest is --temp");  // --temp is the text
  ExpectError("generate m -ngl 99 -p x", 2, "unknown option -ngl (everything runs on the CPU; leave it out)");
  ExpectError("serve m --prot 80", 2, "unknown option --prot, the nearest is --port");
  ExpectError("corpus build x --ot y", 2, "unknown option --ot, the nearest is --out");
  ExpectError("window covr ab b", 2, "unknown verb `window covr`, the nearest is cover");
  ExpectError("generate m words", 2, "\"words\" stands alone; a text follows -p");
  ExpectError("generate smolm2 -p x", 3, "the nearest is smollm2");
  ExpectError("rm smolm2", 2, "no cached model of that name");
  ExpectError("generate --model m1 m2 -p x", 2, "\"m2\" stands alone");
}

TEST(Cli, NumbersAreWrittenAsPeopleWriteThem) {
  ExpectError("generate m -p x -n 5000000000", 2, "-n: 5000000000 is not between -1 and 2147483647");
  ExpectError("generate m -p x -n ten", 2, "--predict: \"ten\" is not a whole number");
  ExpectError("generate m -p x --temp warm", 2, "--temp: \"warm\" is not a number");
  ExpectError("generate m -p x -t 1000", 2, "--threads: 1000 on ");
  for (const char* command : {"generate m -f /tmp", "corpus build /tmp -o /tmp/no-index", "eval smollm2 --jsonl /tmp"}) {
    if (DefaultTestModel().empty() && std::string(command).starts_with("corpus")) continue;
    if (DefaultTestModel().empty() && std::string(command).starts_with("eval")) continue;
    ExpectError(command, 3, "/tmp: is a directory, expected a file");
  }
}

TEST(Cli, WhatIsThereIsNotWrittenOverUnasked) {
  const TempFolder folder;
  std::ofstream(folder / "index") << "precious";
  std::ofstream(folder / "text.txt") << "some words";
  ExpectError("corpus build '" + folder / "text.txt" + "' -o '" + folder / "index" + "'", 2, "--yes writes over it");
  ExpectError("prefix m -p x -o '" + folder.path() + "'", 2, "--yes writes over it");
  EXPECT_EQ(ReadAll(folder / "index"), "precious");
}

// A training goes on with its directory alone, is lengthened, and ends with the next command.
TEST(Cli, TrainingGoesOnWithItsDirectoryAlone) {
  const TempFolder folder;
  std::ofstream(folder / "data.csv") << "prompt,completion\nWhat is 1?,One it is.\n\"What, now?\",\"Two, now.\"\n";
  const TinyLlama tiny;
  const std::string model = "'" + tiny.path() + "'", out = " -o '" + folder / "out" + "'";
  const Outcome plan = Cambium("plan " + model + " --data '" + folder / "data.csv" + "' --raw --steps 3 --seq-len 32");
  EXPECT_EQ(plan.code, 0) << plan.err;
  EXPECT_NE(plan.err.find("warning: only 3 steps"), std::string::npos) << plan.err;
  EXPECT_NE(plan.err.find("learning rate 0.002"), std::string::npos) << plan.err;
  const Outcome first =
      Cambium("train " + model + " --data '" + folder / "data.csv" + "' --raw --yes --steps 3 --seq-len 32" + out);
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_NE(first.err.find("next: cambium generate "), std::string::npos) << first.err;
  ExpectError("train --seq-len 32 -o '" + folder / "out" + "' -q --data '" + folder / "data.csv" + "' " + model, 2,
              "--resume auto");
  const Outcome longer = Cambium("train --resume auto --steps 5" + out);
  EXPECT_EQ(longer.code, 0) << longer.err;
  EXPECT_NE(longer.err.find("lengthened from 3 to 5 steps"), std::string::npos) << longer.err;
  const Outcome eval = Cambium("eval " + model + " --json --jsonl '" + folder / "data.csv" + "'");
  EXPECT_EQ(eval.code, 0) << eval.err;
  EXPECT_EQ(json::parse(eval.out)["records"], 2);
}

TEST(Cli, InspectIsShortUnlessAsked) {
  const std::string model = "'" CAMBIUM_TEST_DIR "/golden/families/llama'";
  const Outcome brief = Cambium("inspect " + model);
  EXPECT_LE(std::count(brief.out.begin(), brief.out.end(), '\n'), 10) << brief.out;
  EXPECT_EQ(brief.out.find("q_proj"), std::string::npos);
  EXPECT_NE(Cambium("inspect --tensors " + model).out.find("q_proj"), std::string::npos);
  EXPECT_NE(Cambium("inspect --metadata " + model).out.find("config"), std::string::npos);
}

TEST(Cli, DataErrorsAreOneLineAndCodeThree) {
  const TempFolder folder;
  ExpectError("generate /nonexistent.gguf -p x", 3, "/nonexistent.gguf");
  ExpectError("generate m -f /nonexistent.txt", 3, "/nonexistent.txt");
  ExpectError("generate '" CAMBIUM_TEST_DIR "/golden' -p x", 3, "golden");
  std::ofstream(folder / "bad.gguf") << "this is no model";
  ExpectError("generate '" + folder / "bad.gguf" + "' -p x", 3, "magic");
}

TEST(Cli, AFullDiskIsCodeFour) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP();
  const Outcome run = Cambium("version > /dev/full");
  EXPECT_EQ(run.code, 4);
  EXPECT_NE(run.err.find("error: standard output: "), std::string::npos);
}

TEST(Cli, HelpVersionManAndCompletions) {
  EXPECT_EQ(Cambium("--help").code, 0);
  EXPECT_EQ(Cambium("version").out, Cambium("version").out);
  EXPECT_EQ("cambium " + Cambium("--version").out, Cambium("version").out);
  const json table = json::parse(Cambium("man --json").out);
  const std::string man = Cambium("man").out, bash = Cambium("completion bash").out;
  const std::string zsh = Cambium("completion zsh").out, fish = Cambium("completion fish").out;
  size_t options = 0;
  for (const json& verb : table) {
    const std::string name = verb["verb"];
    if (name.empty()) continue;
    // Every verb has --json, and all that it takes is in the manual and in each completion.
    bool has_json = false, is_group = false;
    for (const json& other : table) is_group |= other["verb"].get<std::string>().starts_with(name + " ");
    EXPECT_EQ(Cambium(name + " --help").code, 0) << name;
    for (const json& option : verb["options"]) {
      ++options;
      EXPECT_NE(option["description"], "") << name << option["names"];
      for (const std::string word : option["names"]) {
        has_json |= word == "--json";
        if (!word.starts_with("--")) continue;
        EXPECT_NE(bash.find(word), std::string::npos) << name << word;
        EXPECT_NE(zsh.find("'" + word + "["), std::string::npos) << name << word;
        EXPECT_NE(fish.find("-l " + word.substr(2)), std::string::npos) << name << word;
        std::string roff;
        for (const char c : word) roff += c == '-' ? "\\-" : std::string(1, c);
        EXPECT_NE(man.find(roff), std::string::npos) << name << word;
      }
    }
    EXPECT_TRUE(has_json || is_group) << name;
  }
  EXPECT_GT(options, 50u);
  EXPECT_EQ(std::system(("'" CAMBIUM_CLI "' completion bash | bash -n")), 0);
}

class CliWithModel : public testing::Test {
 protected:
  void SetUp() override {
    model_ = DefaultTestModel();
    if (model_.empty()) GTEST_SKIP() << "no default model";
  }
  std::string Model() const { return "'" + model_ + "' "; }
  std::string model_;
};

TEST_F(CliWithModel, GenerateStreamsTextAlone) {
  const Outcome plain = Cambium("generate " + Model() + "-p 'The capital of France is' -n 6 --temp 0");
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_NE(plain.out.find("Paris"), std::string::npos) << plain.out;
  EXPECT_EQ(plain.err, "") << "rates are for a terminal";

  const Outcome quiet = Cambium("generate " + Model() + "-p 'The capital of France is' -n 6 --temp 0 --json --quiet");
  EXPECT_EQ(quiet.err, "");
  const json result = json::parse(quiet.out);
  EXPECT_EQ(result["text"].get<std::string>() + "\n", plain.out);
  EXPECT_EQ(result["ids"].size(), 6u);
  EXPECT_EQ(result["finish_reason"], "length");
  EXPECT_EQ(result["timings"]["prompt_tokens"], 5);
  EXPECT_GT(result["timings"]["prompt_ms"], 0.0);
  EXPECT_GT(result["timings"]["load_ms"], 0.0);
  EXPECT_TRUE(result["timings"].contains("decode_tokens") && result["timings"].contains("decode_ms"));
}

TEST_F(CliWithModel, ALoopIsEndedUnlessItIsAskedFor) {
  const TempFolder folder;
  const json question = {{{"role", "user"}, {"content", "What is the capital of France?"}}};
  {
    std::ofstream in(folder / "in.jsonl");
    const json shared = {{"messages", question}, {"temperature", 0}, {"max_tokens", 1100}};
    for (const char* id : {"guarded", "free"}) {
      json record = shared;
      record["id"] = id;
      if (std::string(id) == "free") record["loop_guard"] = false;
      in << record << '\n';
    }
  }
  const Outcome run =
      Cambium("generate " + Model() + "--jsonl '" + folder / "in.jsonl" + "' -o '" + folder / "out" + "'");
  ASSERT_EQ(run.code, 0) << run.err;
  std::istringstream lines(ReadAll(folder / "out"));
  std::string first, second;
  std::getline(lines, first);
  std::getline(lines, second);
  EXPECT_EQ(json::parse(first)["finish_reason"], "repetition");
  EXPECT_EQ(json::parse(second)["finish_reason"], "length");
  EXPECT_EQ(json::parse(second)["ids"].size(), 1100u);
}

TEST_F(CliWithModel, ADraftlessBenchHasNumbersAlone) {
  const TempFolder folder;
  std::ofstream(folder / "p.jsonl") << R"({"prompt": "Once"})" << '\n'
                                    << R"({"messages": [{"role": "user", "content": "Hi"}]})" << '\n';
  for (const char* more : {"", " --chat", " --json"}) {
    const Outcome run =
        Cambium("bench " + Model() + "--draft ngram -n 1 -r 1 --prompts '" + folder / "p.jsonl" + "'" + more);
    EXPECT_EQ(run.code, 0) << run.err;
    EXPECT_EQ(run.out.find("nan"), std::string::npos) << run.out;
    EXPECT_EQ(run.out.find("null"), std::string::npos) << run.out;
  }
}

TEST_F(CliWithModel, AFullContextLeavesTheOldestOutAndSaysSo) {
  const Outcome run = Cambium("run " + Model() + "-c 128 -n 30 --ignore-eos --temp 0",
                              "printf 'One fact.\\nOne more fact.\\nAnother fact.\\nThe last fact.\\n' | ");
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_NE(run.err.find("the model no longer sees the oldest 2 messages"), std::string::npos)
      << run.err;
}

TEST_F(CliWithModel, AllSourcesOfThePromptAgree) {
  const std::string tail = " -n 4 --temp 0 --json -q";
  const json text = json::parse(Cambium("generate " + Model() + "-p 'Once upon a time'" + tail).out);
  const TempFolder folder;
  const std::string file = folder / "prompt.txt";
  std::ofstream(file) << "Once upon a time\n";
  EXPECT_EQ(json::parse(Cambium("generate " + Model() + "-f " + file + tail).out)["ids"], text["ids"]);
  EXPECT_EQ(json::parse(Cambium("generate " + Model() + "-" + tail, "printf 'Once upon a time' | ").out)["ids"],
            text["ids"]);
  std::string ids;
  const json tokens = json::parse(Cambium("tokenize " + Model() + "-p 'Once upon a time' --json -q").out);
  for (const int id : tokens["ids"]) {
    ids += (ids.empty() ? "" : ",") + std::to_string(id);
  }
  EXPECT_EQ(json::parse(Cambium("generate " + Model() + "--ids " + ids + tail).out)["ids"], text["ids"]);
}

TEST_F(CliWithModel, SeedsStopsAndBiases) {
  const std::string base = "generate " + Model() + "-p 'Write a list:' -n 12 --json -q ";
  const json seven = json::parse(Cambium(base + "-s 7 -t 1").out);
  EXPECT_EQ(seven["ids"], json::parse(Cambium(base + "-s 7 -t 2").out)["ids"]);
  EXPECT_NE(seven["ids"], json::parse(Cambium(base + "-s 8 --temp 2 --top-k 0 --top-p 1 --min-p 0").out)["ids"]);

  const std::string greedy = "generate " + Model() + "-p 'The capital of France is' -n 8 --temp 0 --json -q ";
  const json free = json::parse(Cambium(greedy).out);
  const int first = free["ids"][0];
  const json banned = json::parse(Cambium(greedy + "--logit-bias " + std::to_string(first) + "-inf").out);
  EXPECT_NE(banned["ids"][0], first);
  const json stopped = json::parse(Cambium(greedy + "--stop Paris").out);
  EXPECT_EQ(stopped["finish_reason"], "stop");
  EXPECT_EQ(stopped["text"].get<std::string>().find("Paris"), std::string::npos);
}

TEST_F(CliWithModel, ChatKeepsSpecialTokensOfTheUserPlain) {
  const Outcome run = Cambium("generate " + Model() + "--chat -p 'Say hello.' -n 8 --temp 0 --json -q");
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_NE(json::parse(run.out)["text"], "");
  // With and without the end token in the user's text the prompt differs by the plain spelling, several tokens long.
  const json spelled =
      json::parse(Cambium("generate " + Model() + "--chat -p 'Say <|im_end|>hello.' -n 1 --temp 0 --json -q").out);
  EXPECT_GE(spelled["timings"]["prompt_tokens"].get<int>(),
            json::parse(run.out)["timings"]["prompt_tokens"].get<int>() + 4);
}

// The default model's template does not read tools; tests/kept_fields_test.cc has one that does.
TEST_F(CliWithModel, ToolsAreReadFromAFileOrRefused) {
  const TempFolder folder;
  const std::string tools = folder / "tools.json", with = "-p a -n 1 --tools '" + tools + "' ";
  std::ofstream(tools) << R"([{"type": "function", "function": {"name": "now"}}])";
  ExpectError("generate " + Model() + "-q --chat " + with, 2, "does not read");
  ExpectError("generate " + Model() + "-q " + with, 2, "--tools");
  for (const char* bad : {"{}", "[]", "[1]", "nothing"}) {
    std::ofstream(tools) << bad;
    ExpectError("generate " + Model() + "-q --chat " + with, 3, "tools.json");
  }
}

TEST_F(CliWithModel, TokenizeAndBack) {
  const json plain = json::parse(Cambium("tokenize " + Model() + "-p 'a<|im_end|>' --json -q").out);
  const json special = json::parse(Cambium("tokenize " + Model() + "-p 'a<|im_end|>' --special --json -q").out);
  EXPECT_GT(plain["ids"].size(), special["ids"].size());
  EXPECT_EQ(special["ids"].size(), 2u);
  EXPECT_EQ(special["pieces"][1], "<|im_end|>");
  EXPECT_EQ(Cambium("tokenize " + Model() + "--ids " + std::to_string(special["ids"][0].get<int>()) + " -q").out,
            "a\n");
}

TEST_F(CliWithModel, ScoreAndEval) {
  const json score = json::parse(Cambium("score " + Model() + "-p 'The capital of France is Paris.' --json -q").out);
  double sum = 0;
  for (const double logprob : score["logprobs"]) sum -= logprob;
  EXPECT_EQ(score["logprobs"].size() + 1, score["ids"].size());
  EXPECT_NEAR(score["loss"].get<double>(), sum / static_cast<double>(score["logprobs"].size()), 1e-9);
  EXPECT_NEAR(score["perplexity"].get<double>(), std::exp(score["loss"].get<double>()), 1e-9);

  const TempFolder folder;
  const std::string jsonl = folder / "data.jsonl";
  std::ofstream(jsonl) << "{\"text\": \"The capital of France is Paris.\"}\n\n";
  const json eval = json::parse(Cambium("eval " + Model() + "--jsonl " + jsonl + " --json -q").out);
  EXPECT_NEAR(eval["loss"].get<double>(), score["loss"].get<double>(), 1e-9);
  std::ofstream(jsonl)
      << R"({"text": "{ \"a\": 1 }", "json_schema": {"properties": {"a": {"type": "integer"}}}})"
      << "\n"
      << R"({"text": "[1]", "response_format": {"type": "json_object"}})"
      << "\n"
      << R"({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "yes"}], )"
      << R"("regex": "yes|no"})"
      << "\n"
      << R"({"text": "free"})"
      << "\n";
  const json bound = json::parse(Cambium("eval " + Model() + "--jsonl " + jsonl + " --json -q").out);
  EXPECT_EQ(bound["records"], 4);
  EXPECT_EQ(bound["bound"], 3);
  EXPECT_EQ(bound["kept"], 2);
  EXPECT_FALSE(eval.contains("bound"));
  std::ofstream(jsonl) << R"({"text": "1", "json_schema": {"type": "hiccup"}})"
                       << "\n";
  ExpectError("eval " + Model() + "--jsonl " + jsonl + " -q", 2, "hiccup");
  std::ofstream(jsonl) << "{\"text\": \"good\"}\n{\"txt\": 1}\n";
  ExpectError("eval " + Model() + "--jsonl " + jsonl + " -q", 3, "line 2");
  ExpectError("eval " + Model() + "-p 'too short' -q", 2, "fewer than one chunk");
}

TEST_F(CliWithModel, BadInputToALoadedModel) {
  ExpectError("generate " + Model() + "--ids 1,999999 -q", 2, "999999");
  ExpectError("generate " + Model() + "--ids -1 -q", 2, "-1");
  ExpectError("generate " + Model() + "-c 16 -f '" CAMBIUM_TEST_DIR "/cli_test.cc' -q", 2, "context holds 16");
  ExpectError("generate " + Model() + "-c 99999999 -p x -q", 2, "99999999");
  ExpectError("score " + Model() + "--ids 5 -q", 2, "at least 2 tokens");
  ExpectError("generate " + Model() + "-p x --logit-bias 999999+1 -q", 2, "999999");
}

TEST_F(CliWithModel, TrainingRefusesWhatCannotWork) {
  const TempFolder folder;
  const std::string directory = folder.path();
  const auto file = [&](const std::string& name, const std::string& content) {
    std::ofstream(directory + "/" + name, std::ios::binary) << content;
    return " --data '" + directory + "/" + name + "' ";
  };
  const std::string good = file("good.jsonl", R"({"prompt":"a","completion":"b"})"),
                    out = "-q -o '" + directory + "/out' ";
  const auto refused = [&](const std::string& rest, int code, const std::string& part) {
    ExpectError("train " + Model() + rest, code, part);
  };
  refused(file("empty.jsonl", "") + out, 3, "empty.jsonl: the file is empty");
  refused(file("half.jsonl", "{\"text\":\"a\"}\r\n{\"text\":") + out, 3, "half.jsonl: line 2: ");
  refused(file("masked.jsonl", R"({"input_ids":[1,2],"labels":[-100,-100]})") + out, 3, "nothing to train on");
  refused(good + out + "--seq-len 100000", 2, "--seq-len: 100000 is beyond the model's");
  refused(good + out + "--seq-len 8", 3, "no trained token within 8 tokens");
  refused(good + out + "--rank 0", 2, "rank is 0");
  refused(good + out + "--targets w_proj", 2, "it has q_proj, k_proj");
  refused(good + out + "--init-from '" CAMBIUM_TEST_DIR "/golden/peft/lora'", 3, "is the adapter for another base?");
  refused(good + "-q -o '" + directory + "/good.jsonl'", 4, "good.jsonl");

  const auto prompts = [&](const std::string& name, const std::string& content) {
    file(name, content);
    return "--graft medusa --distill '" + directory + "/" + name + "' ";
  };
  refused(prompts("none.jsonl", "") + out, 3, "none.jsonl: the file is empty");
  refused(prompts("odd.jsonl", "{\"prompt\":\"a\"}\n{\"words\":1}\n") + out, 3, "odd.jsonl: line 2: no field messages");
  refused(prompts("long.txt", "one line of a prompt\n") + out + "--seq-len 8", 3, "long.txt: line 1: the prompt has ");
  refused(good + out + "--distill x", 2, "--distill is for draft heads, --graft is lora");
  refused(good + out + "--joint", 2, "--joint: --with-heads is \"\"");
  refused(good + out + "--mtp-weight 0.3 --graft ia3", 2, "--mtp-weight: --graft is ia3, expected lora or full");
  refused(good + out + "--mtp-weight 0.3 --graft full --draft-vocab 64", 2, "--draft-vocab: with --graft full");
  ExpectError("train " + Model() + good + out, 2, "another process is training",
              "flock '" + directory + "/out/.lock' ");
}

TEST_F(CliWithModel, ChatReadsLinesAndCommands) {
  const TempFolder folder;
  const std::string saved = folder / "chat.json";
  const Outcome run =
      Cambium("run " + Model() + "--temp 0 -n 8 --json -q",
              "printf 'Hello.\\n/set predict 4\\nAnd again?\\n/save " + saved + "\\n/exit\\nlost\\n' | ");
  ASSERT_EQ(run.code, 0) << run.err;
  std::istringstream lines(run.out);
  std::string line;
  std::vector<json> answers;
  while (std::getline(lines, line)) answers.push_back(json::parse(line));
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_LE(answers[0]["ids"].size(), 8u);
  EXPECT_LE(answers[1]["ids"].size(), 4u);
  const json messages = json::parse(ReadAll(saved))["messages"];
  ASSERT_EQ(messages.size(), 4u);
  EXPECT_EQ(messages[0]["content"], "Hello.");
  EXPECT_EQ(messages[1]["content"], answers[0]["text"]);
  ExpectError("run " + Model() + "-q", 2, "unknown command /nope", "printf '/nope\\n' | ");
}

TEST_F(CliWithModel, BenchHasTheDocumentedKeys) {
  const json bench = json::parse(Cambium("bench " + Model() + "-p 16 -n 4 -r 1 --verify-rows 1,4 --json -q").out);
  EXPECT_GT(bench["prefill_tps"], 0.0);
  EXPECT_GT(bench["decode_tps"], 0.0);
  ASSERT_EQ(bench["verify"].size(), 2u);
  EXPECT_EQ(bench["verify"][1]["rows"], 4);
  EXPECT_GT(bench["verify"][1]["ms"], 0.0);
  EXPECT_GT(bench["peak_rss_bytes"], 1 << 20);
}

TEST_F(CliWithModel, InterruptIsCode130) {
  const Outcome run = Cambium("generate " + Model() + "-p 'Once' -n 100000 --ignore-eos -q", "timeout -s INT 1 ");
  EXPECT_EQ(run.code, 124) << "timeout saw it end after its signal";
  const Outcome code =
      Cambium("generate " + Model() + "-p 'Once' -n 100000 --ignore-eos -q", "timeout --preserve-status -s INT 1 ");
  EXPECT_EQ(code.code, 130);
}

}  // namespace
}  // namespace cambium
