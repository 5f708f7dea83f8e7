#include "io/hub.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <signal.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "file_testing.h"
#include "families/convert.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "io/model_cache.h"
#include "io/sha256.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;

// tests/hub_server.py on a free port, and a cache for it.
class HubTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::system("python3 -c '' 2>/dev/null") != 0) GTEST_SKIP() << "needs python3";
    fs::create_directories(root_ / "site");
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    server_ = fork();
    if (server_ == 0) {
      dup2(pipe_ends[1], STDOUT_FILENO);
      close(pipe_ends[0]);
      close(pipe_ends[1]);
      execlp("python3", "python3", CAMBIUM_TEST_DIR "/hub_server.py", (root_ / "site").c_str(), nullptr);
      _exit(127);
    }
    close(pipe_ends[1]);
    log_ = fdopen(pipe_ends[0], "r");
    int port = 0;
    ASSERT_EQ(std::fscanf(log_, "%d", &port), 1);
    settings_.endpoint = "http://127.0.0.1:" + std::to_string(port);
    settings_.cache = root_ / "cache";
    settings_.retry_wait_ms = 1;
  }
  void TearDown() override {
    if (server_ <= 0) return;
    kill(server_, SIGKILL);
    waitpid(server_, nullptr, 0);
    std::fclose(log_);
  }

  void Put(const std::string& file, const std::string& text) { testing::WriteFile(root_ / ("site/" + file), text); }
  void Behave(const std::string& how) { Put("behaviour", how); }
  std::string PullAll(const std::string& name, const PullProgress& progress = {}) {
    return Pull(settings_, ParseHubName(name), progress);
  }

  TempFolder root_;
  HubSettings settings_;
  pid_t server_ = 0;
  FILE* log_ = nullptr;
};

// Not a repeating pattern, so that a wrong resume shows.
std::string Payload(size_t size) {
  std::string text(size, '\0');
  uint32_t state = 1;
  for (char& c : text) c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  return text;
}

TEST_F(HubTest, PullsAGgufIntoTheHubsLayout) {
  const std::string payload = Payload(300000);
  Put("org/tiny/tiny.Q8_0.gguf", payload);
  Put("org/tiny/README.md", "x");
  uint64_t last = 0;
  const std::string path = PullAll("org/tiny", [&](const std::string&, uint64_t done, uint64_t) { last = done; });
  EXPECT_EQ(last, payload.size());
  EXPECT_EQ(testing::ReadFile(path), payload);
  EXPECT_TRUE(path.ends_with("models--org--tiny/snapshots/0123456789abcdef0123456789abcdef01234567/tiny.Q8_0.gguf"));
  EXPECT_TRUE(fs::is_symlink(path));
  EXPECT_EQ(fs::canonical(path).filename(), FileSha256(path));
  EXPECT_EQ(testing::ReadFile(settings_.cache + "/models--org--tiny/refs/main").substr(0, 8), "01234567");
  EXPECT_EQ(FindInHubCache(settings_, {"org/tiny", ""}), path);

  settings_.offline = true;
  EXPECT_EQ(PullAll("org/tiny"), path);
  testing::ExpectError(ErrorCode::kRuntime, {"org/other", "HF_HUB_OFFLINE"}, [&] { PullAll("org/other"); });
}

// A split model: all its parts are pulled, and the name is its first part's.
TEST_F(HubTest, PullsASplitModelWhole) {
  fs::create_directories(root_ / "site/org/split");
  const std::string whole = ConvertToGguf(CAMBIUM_TEST_DIR "/golden/families/llama", root_ / "m.gguf");
  const std::string first = ConvertToGguf(CAMBIUM_TEST_DIR "/golden/families/llama", root_ / "site/org/split/m.gguf",
                                          {}, {.part_bytes = 50000});
  const uint64_t parts = GgufFile(first).parts();
  ASSERT_GE(parts, 3u);
  const std::string path = PullAll("org/split");
  EXPECT_EQ(fs::path(path).filename(), fs::path(first).filename());
  EXPECT_EQ(FindInHubCache(settings_, {"org/split", ""}), path);
  for (const std::string& part : {path, GgufPartPath(fs::path(path).parent_path() / "m.gguf", parts - 1, parts)}) {
    EXPECT_TRUE(fs::is_symlink(part)) << part;
    const GgufFile file(part), original(whole);
    ASSERT_EQ(file.tensors().size(), original.tensors().size());
    for (const NamedTensor& tensor : original.tensors()) {
      const Tensor* const found = file.FindTensor(tensor.name);
      ASSERT_NE(found, nullptr) << tensor.name;
      EXPECT_EQ(std::memcmp(found->data, tensor.view.data, static_cast<size_t>(tensor.bytes)), 0) << tensor.name;
    }
  }
  setenv("HF_HUB_CACHE", settings_.cache.c_str(), 1);
  EXPECT_EQ(ResolveModel("org/split"), path);
}

TEST_F(HubTest, PullsADirectory) {
  Put("org/dir/config.json", "{}");
  Put("org/dir/tokenizer.json", "{}");
  Put("org/dir/model.safetensors", Payload(1000));
  Put("org/dir/onnx/model.onnx", "no");
  Put("org/dir/pytorch_model.bin", "no");
  const std::string path = PullAll("org/dir");
  EXPECT_TRUE(fs::is_directory(path));
  EXPECT_EQ(testing::ReadFile(path + "/model.safetensors"), Payload(1000));
  EXPECT_TRUE(fs::exists(path + "/tokenizer.json"));
  EXPECT_FALSE(fs::exists(path + "/pytorch_model.bin"));
}

TEST_F(HubTest, ResumesACutDownload) {
  const std::string payload = Payload(300001);
  Put("org/tiny/a.gguf", payload);
  Behave("cut");
  EXPECT_EQ(testing::ReadFile(PullAll("org/tiny")), payload);
  kill(server_, SIGKILL);
  std::string log;
  for (int c; (c = std::fgetc(log_)) != EOF;) log += static_cast<char>(c);
  EXPECT_NE(log.find("bytes=150000-"), std::string::npos) << log;
}

TEST_F(HubTest, ResumesWhatAnEarlierRunLeft) {
  const std::string payload = Payload(300001);
  Put("org/tiny/a.gguf", payload);
  testing::WriteFile(root_ / "site/copy", payload);
  const std::string blob = settings_.cache + "/models--org--tiny/blobs/" + FileSha256(root_ / "site/copy");
  testing::WriteFile(blob + ".incomplete", payload.substr(0, 100));
  EXPECT_EQ(testing::ReadFile(PullAll("org/tiny")), payload);
}

TEST_F(HubTest, StartsAgainWhereTheServerCannotResume) {
  const std::string payload = Payload(300001);
  Put("org/tiny/a.gguf", payload);
  Behave("cut norange");
  EXPECT_EQ(testing::ReadFile(PullAll("org/tiny")), payload);
}

TEST_F(HubTest, DiscardsACorruptDownload) {
  Put("org/tiny/a.gguf", Payload(1000));
  Behave("corrupt");
  testing::ExpectError(ErrorCode::kData, {"a.gguf", "SHA-256"}, [&] { PullAll("org/tiny"); });
  EXPECT_EQ(FindInHubCache(settings_, {"org/tiny", ""}), "");
  Behave("");
  EXPECT_EQ(testing::ReadFile(PullAll("org/tiny")), Payload(1000));
}

TEST_F(HubTest, GivesUpOnAFileThatIsShorterThanPromised) {
  Put("org/tiny/a.gguf", Payload(1000));
  Behave("huge");
  EXPECT_THROW(PullAll("org/tiny"), Error);
}

TEST_F(HubTest, RefusesWhatAServerMustNotName) {
  Put("org/tiny/a.gguf", Payload(10));
  Behave("evil");
  testing::ExpectError(ErrorCode::kData, {"../../evil.gguf", "unsafe"}, [&] { PullAll("org/tiny"); });
  Behave("badetag");
  testing::ExpectError(ErrorCode::kData, {"etag"}, [&] { PullAll("org/tiny"); });
  EXPECT_FALSE(fs::exists(root_ / "evil.gguf"));
}

TEST_F(HubTest, SendsTheTokenAndNamesWhatIsMissing) {
  Put("org/tiny/a.gguf", Payload(10));
  Behave("private");
  testing::ExpectError(ErrorCode::kRuntime, {"org/tiny", "401", "HF_TOKEN"}, [&] { PullAll("org/tiny"); });
  settings_.token = "secret";
  EXPECT_EQ(testing::ReadFile(PullAll("org/tiny")), Payload(10));
  testing::ExpectError(ErrorCode::kRuntime, {"org/none", "404"}, [&] { PullAll("org/none"); });
  settings_.endpoint = "http://127.0.0.1:1";
  testing::ExpectError(ErrorCode::kRuntime, {"org/tiny", "127.0.0.1:1"}, [&] { PullAll("org/tiny"); });
}

TEST(Hub, ChoosesFiles) {
  const std::vector<std::string> quants = {"m.Q4_0.gguf", "m.Q4_K_M.gguf", "README.md"};
  EXPECT_EQ(ChooseHubFiles({"o/n", "q4_k_m"}, quants), std::vector<std::string>{"m.Q4_K_M.gguf"});
  EXPECT_EQ(ChooseHubFiles({"o/n", "m.Q4_0.gguf"}, quants), std::vector<std::string>{"m.Q4_0.gguf"});
  testing::ExpectError(ErrorCode::kData, {"several", "m.Q4_0.gguf"}, [&] { ChooseHubFiles({"o/n", ""}, quants); });
  testing::ExpectError(ErrorCode::kData, {"more than one"}, [&] { ChooseHubFiles({"o/n", "q4"}, quants); });
  testing::ExpectError(ErrorCode::kData, {"no file", "q8"}, [&] { ChooseHubFiles({"o/n", "q8"}, quants); });
  const std::vector<std::string> shards = {"config.json", "model-1.safetensors", "model-2.safetensors",
                                           "model.safetensors.index.json", "pytorch_model.bin.index.json"};
  EXPECT_EQ(ChooseHubFiles({"o/n", ""}, shards).size(), 4u);
}

TEST(Hub, KnowsSafePaths) {
  for (const char* good : {"a", "a.gguf", "sub/a-1_2.gguf", "with space.json"})
    EXPECT_TRUE(IsSafeHubPath(good)) << good;
  for (const char* bad : {"", "/a", "a/", "..", "../a", "a/../b", "a//b", "./a", ".a", "a/.b", "a\\b", "a\nb"}) {
    EXPECT_FALSE(IsSafeHubPath(bad)) << bad;
  }
  EXPECT_TRUE(LooksLikeHubName("org/name-1.5:Q4_0"));
  for (const char* bad : {"name", "../name", "org/..", "a/b/c", "/name", "org/", "org:x/y"}) {
    EXPECT_FALSE(LooksLikeHubName(bad)) << bad;
  }
}

// FIPS 180-4's examples, and any cut of the message.
TEST(Sha256, Examples) {
  const auto digest = [](std::string_view text, size_t cut) {
    const std::span bytes(reinterpret_cast<const uint8_t*>(text.data()), text.size());
    Sha256 sha;
    sha.Update(bytes.first(cut));
    sha.Update(bytes.subspan(cut));
    return sha.HexDigest();
  };
  EXPECT_EQ(digest("", 0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(digest("abc", 1), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 20),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(digest(std::string(1000000, 'a'), 333333),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_TRUE(rc::check([&](const std::string& text) {
    RC_ASSERT(digest(text, *rc::gen::inRange<size_t>(0, text.size() + 1)) == digest(text, 0));
  }));
}

TEST(ModelCache, ResolvesPathsAliasesAndNames) {
  const TempFolder folder;
  setenv("CAMBIUM_HOME", (folder / "home").c_str(), 1);
  setenv("HF_HUB_CACHE", (folder / "hub").c_str(), 1);
  testing::ExpectError(ErrorCode::kData, {"SmolLM2", "cambium pull smollm2"}, [] { ResolveModel("smollm2"); });
  const std::string models = folder / "home/models";
  testing::WriteFile(models + "/SmolLM2-135M-Instruct.Q4_1.gguf", "x");
  testing::WriteFile(models + "/mine.gguf", "xy");
  testing::WriteFile(folder / "dir/config.json", "{}");
  testing::WriteFile(folder / "one/a.gguf", "x");
  testing::WriteFile(folder / "none/readme", "x");
  EXPECT_EQ(ResolveModel("smollm2"), models + "/SmolLM2-135M-Instruct.Q4_1.gguf");
  EXPECT_EQ(ResolveModel("mine"), models + "/mine.gguf");
  EXPECT_EQ(ResolveModel("mine.gguf"), models + "/mine.gguf");
  EXPECT_EQ(ResolveModel(folder / "dir"), folder / "dir");
  EXPECT_EQ(ResolveModel(folder / "one"), folder / "one/a.gguf");
  testing::ExpectError(ErrorCode::kData, {"none", "holds no model"}, [&] { ResolveModel(folder / "none"); });
  testing::ExpectError(ErrorCode::kData, {"absent", "cambium list"}, [] { ResolveModel("absent"); });
  testing::ExpectError(ErrorCode::kData, {"org/absent", "cambium pull"}, [] { ResolveModel("org/absent"); });

  const std::string snapshot = folder / "hub/models--org--name/snapshots/abc/m.gguf";
  testing::WriteFile(snapshot, "abc");
  testing::WriteFile(folder / "hub/models--org--name/refs/main", "abc");
  EXPECT_EQ(ResolveModel("org/name"), snapshot);
  const std::vector<CachedModel> list = ListModels();
  ASSERT_EQ(list.size(), 3u);
  EXPECT_EQ(list[0].name, "mine.gguf");
  EXPECT_EQ(list[1].name, "org/name");
  EXPECT_EQ(list[2].name, "smollm2");
  EXPECT_EQ(RemoveModel("mine"), 2u);
  EXPECT_EQ(RemoveModel("org/name"), 3u);
  EXPECT_FALSE(fs::exists(models + "/mine.gguf"));
  testing::ExpectError(ErrorCode::kUsage, {"mine"}, [] { RemoveModel("mine"); });
  testing::ExpectError(ErrorCode::kUsage, {".."}, [] { RemoveModel("../home"); });
}

}  // namespace
}  // namespace cambium
