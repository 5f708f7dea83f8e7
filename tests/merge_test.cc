// Merging: the written model is the base with its grafts, in each format and type; what a narrow type loses is measured.
#include <gtest/gtest.h>

#include <filesystem>

#include "base/random.h"
#include "file_testing.h"
#include "grafts/grafts.h"
#include "grafts/merge.h"
#include "families/convert.h"
#include "io/gguf.h"
#include "io/quantize_model.h"
#include "random_lora.h"
#include "test_graft.h"

namespace cambium {
namespace {

std::string Family(const std::string& name) { return std::string(CAMBIUM_TEST_DIR) + "/golden/families/" + name; }

const std::vector<int32_t> kIds = {5, 17, 60, 3, 8, 44, 91, 20, 33, 7};

// Not gemma3: its golden has a scale that GGUF cannot express.
class Merge : public ::testing::TestWithParam<const char*> {};

TEST_P(Merge, IsTheBaseWithItsGrafts) {
  const TempFolder folder;
  ThreadPool pool(2);
  const std::string hf = Family(GetParam()), gguf = folder / "base.gguf";
  ConvertToGguf(hf, gguf);
  for (const std::string& base : {gguf, hf}) {
    Transformer model(LoadWeights(pool, base), pool);
    const auto lora = RandomLora(model, 1, {}), dora = RandomLora(model, 1, {.rank = 3, .dora = true, .targets = {"up_proj"}});
    const std::vector<Graft*> grafts = {lora.get(), dora.get()};
    const OwnedTensor want = ExactLogits(model, grafts, kIds);
    const LogitDifference effect = Compare(want.view, ExactLogits(model, {}, kIds).view);
    EXPECT_GT(effect.largest, 0.5);
    for (const std::string name : {"merged.gguf", "merged"}) {
      double error = 1e-4;  // of fp32; a base in bf16 rounds to 8 bits
      for (const std::optional<DType> type : {std::optional(DType::kF32), std::optional<DType>()}) {
        const std::string out = folder / name;
        WriteMerged(model.base(), grafts, base, out, type);
        Transformer merged(LoadWeights(pool, out), pool);
        const LogitDifference damage = Compare(ExactLogits(merged, {}, kIds).view, want.view);
        EXPECT_LT(damage.largest, error) << name;
        EXPECT_LE(damage.rms, damage.largest);
        error = 0.05 * effect.largest;
        std::filesystem::remove_all(out);
      }
    }
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(std::filesystem::path(gguf).parent_path()), {}), 1)
        << "nothing but the base is left behind";
  }
}
INSTANTIATE_TEST_SUITE_P(Families, Merge, ::testing::Values("llama", "llama3", "mistral", "qwen2", "qwen3", "gpt2"));

TEST(MergeFiles, LeavesWhatNoGraftTouchesBitForBit) {
  const TempFolder folder;
  ThreadPool pool(2);
  ConvertToGguf(Family("llama"), folder / "base.gguf");
  QuantizeModel(pool, folder / "base.gguf", folder / "q8.gguf", DType::kQ8_0, false);
  Transformer model(LoadWeights(pool, folder / "q8.gguf"), pool);
  const auto graft = RandomLora(model, 1, {.targets = {"q_proj"}});
  Graft* const grafts[] = {graft.get()};
  WriteMerged(model.base(), grafts, folder / "q8.gguf", folder / "merged.gguf", {});
  const GgufFile before(folder / "q8.gguf"), after(folder / "merged.gguf");
  ASSERT_EQ(before.tensors().size(), after.tensors().size());
  for (size_t i = 0; i < before.tensors().size(); ++i) {
    const NamedTensor &a = before.tensors()[i], &b = after.tensors()[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.type, b.type);
    const bool same = std::equal(a.view.as<uint8_t>(), a.view.as<uint8_t>() + a.bytes, b.view.as<uint8_t>());
    EXPECT_EQ(same, a.name.find("attn_q.") == std::string::npos) << a.name;
  }
}

TEST(MergeFiles, LeavesWhatTheUserMadeBesideIt) {
  const TempFolder folder;
  ThreadPool pool(2);
  Transformer model(LoadWeights(pool, Family("llama")), pool);
  const auto graft = RandomLora(model, 1, {});
  Graft* const grafts[] = {graft.get()};
  std::vector<std::string> own;
  for (const char* part : {".base.gguf", ".merged.gguf", ".typed.gguf", ".partial", ".trial", ".tmp"}) {
    own.push_back(folder / ("out" + std::string(part)));
    testing::WriteFile(own.back() + "/notes.txt", "the user's");
  }
  WriteMerged(model.base(), grafts, Family("llama"), folder / "out", DType::kBF16);
  for (const std::string& path : own) EXPECT_EQ(testing::ReadFile(path + "/notes.txt"), "the user's") << path;
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1 + std::ssize(own));
}

TEST(MergeFiles, RefusesWhatIsMoreThanMatrices) {
  const TempFolder folder;
  ThreadPool pool(1);
  Transformer model(LoadWeights(pool, Family("llama")), pool);
  TestGraft graft(model, 1, {.prefix = 2});
  Graft* const grafts[] = {&graft};
  testing::ExpectError(ErrorCode::kUsage, {"test", "--graft"},
                       [&] { WriteMerged(model.base(), grafts, Family("llama"), folder / "out.gguf", {}); });
  const auto lora = RandomLora(model, 1, {});
  Graft* const loras[] = {lora.get()};
  testing::ExpectError(ErrorCode::kUsage, {"Q4_0", "F16"},
                       [&] { WriteMerged(model.base(), loras, Family("llama"), folder / "out", DType::kQ4_0); });
}

TEST(MergeFiles, ComparisonSeesAWrongLogit) {
  float a[] = {1, 2, 3, 4}, b[] = {1, 2, 3.5f, 4};
  EXPECT_EQ(Compare(Tensor(a, {2, 2}), Tensor(a, {2, 2})).largest, 0);
  EXPECT_EQ(Compare(Tensor(a, {2, 2}), Tensor(b, {2, 2})).largest, 0.5);
  EXPECT_EQ(Compare(Tensor(a, {2, 2}), Tensor(b, {2, 2})).rms, 0.25);
  b[0] = NAN;
  EXPECT_EQ(Compare(Tensor(a, {2, 2}), Tensor(b, {2, 2})).largest, INFINITY);
}

}  // namespace
}  // namespace cambium
