// Split GGUF models: any part opens the set.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "file_testing.h"
#include "families/convert.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "model/load.h"

namespace cambium {
namespace {

using testing::ExpectError;

const std::string kLlama = std::string(CAMBIUM_TEST_DIR) + "/golden/families/llama";

struct SplitModel {
  SplitModel() {
    whole = ConvertToGguf(kLlama, folder / "m.gguf");
    first = ConvertToGguf(kLlama, folder / "m.gguf", {}, {.part_bytes = 50000});
    parts = GgufFile(first).parts();
  }
  std::string Part(uint64_t number) const { return GgufPartPath(whole, number, parts); }
  // Writes a part again with other metadata or tensors.
  void Change(uint64_t number, const std::function<void(GgufWriter&)>& change, size_t drop = 0) const {
    const std::string copy = folder / "copy.gguf";  // its own name, so that it opens as a file of its own
    std::filesystem::copy_file(Part(number), copy, std::filesystem::copy_options::overwrite_existing);
    const std::string bytes = testing::ReadFile(copy);
    const GgufFile file("copy", {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    GgufWriter writer;
    for (const auto& [key, value] : file.metadata()) writer.Set(key, value);
    change(writer);
    for (size_t i = drop; i < file.tensors().size(); ++i)
      writer.AddTensor(file.tensors()[i].name, file.tensors()[i].view);
    writer.Write(Part(number));
  }
  TempFolder folder;
  std::string whole, first;
  uint64_t parts = 0;
};

TEST(GgufSplit, AnyPartOpensTheSet) {
  const SplitModel model;
  ASSERT_GE(model.parts, 3u);
  EXPECT_EQ(model.first, model.Part(0));
  const GgufFile whole(model.whole);
  for (uint64_t number = 0; number < model.parts; ++number) {
    const GgufFile file(model.Part(number));
    EXPECT_EQ(file.parts(), model.parts);
    ASSERT_EQ(file.tensors().size(), whole.tensors().size());
    for (const NamedTensor& tensor : whole.tensors()) {
      const Tensor* const found = file.FindTensor(tensor.name);
      ASSERT_NE(found, nullptr) << tensor.name;
      EXPECT_EQ(std::memcmp(found->data, tensor.view.data, tensor.bytes), 0) << tensor.name;
    }
    ASSERT_EQ(file.metadata().size(), whole.metadata().size());
    for (const auto& [key, value] : whole.metadata())
      EXPECT_TRUE(std::ranges::equal(file.Find(key)->bytes, value.bytes)) << key;
  }
  ThreadPool pool(2);
  EXPECT_EQ(LoadGguf(pool, model.Part(1))->config.layers, 3);
  // And becomes one file again, the same bytes.
  EXPECT_EQ(RejoinGguf(model.Part(2), model.folder / "joined.gguf", 0), model.folder / "joined.gguf");
  EXPECT_EQ(testing::ReadFile(model.folder / "joined.gguf"), testing::ReadFile(model.whole));
  EXPECT_EQ(RejoinGguf(model.whole, model.folder / "x.gguf", 1 << 30), model.folder / "x.gguf");  // it fits in one
}

TEST(GgufSplit, PartsThatDoNotFitAreNamed) {
  {
    const SplitModel model;
    std::filesystem::remove(model.Part(1));
    for (const uint64_t number : {uint64_t{0}, uint64_t{2}}) {
      ExpectError(ErrorCode::kData, {"part 2 of", "missing", model.Part(1)},
                  [&] { GgufFile file(model.Part(number)); });
    }
  }
  {
    const SplitModel model;
    std::filesystem::rename(model.Part(1), model.folder / "renamed.gguf");
    ExpectError(ErrorCode::kData, {"renamed.gguf", "split.count", "-00002-of-"},
                [&] { GgufFile file(model.folder / "renamed.gguf"); });
  }
  {
    const SplitModel model;
    std::filesystem::copy_file(model.Part(2), model.Part(1), std::filesystem::copy_options::overwrite_existing);
    ExpectError(ErrorCode::kData, {model.Part(1), "split.no is 2"}, [&] { GgufFile file(model.Part(0)); });
  }
  {
    const SplitModel model;
    model.Change(1, [](GgufWriter& writer) { writer.Set("split.count", uint32_t{9}); });
    ExpectError(ErrorCode::kData, {model.Part(1), "9"}, [&] { GgufFile file(model.Part(0)); });
    ExpectError(ErrorCode::kData, {model.Part(1), "split.count is 9"}, [&] { GgufFile file(model.Part(1)); });
  }
  {
    const SplitModel model;
    model.Change(2, [](GgufWriter& writer) { writer.Set("general.architecture", "qwen2"); });
    ExpectError(ErrorCode::kData, {model.Part(2), "general.architecture"}, [&] { GgufFile file(model.Part(0)); });
  }
  {
    const SplitModel model;
    model.Change(
        1, [](GgufWriter&) {}, 1);
    ExpectError(ErrorCode::kData, {"split.tensors.count"}, [&] { GgufFile file(model.Part(2)); });
  }
  {
    const SplitModel model;
    const GgufFile first(model.Part(0));
    const NamedTensor twice = first.tensors().front();
    model.Change(
        1, [&](GgufWriter& writer) { writer.AddTensor(twice.name, twice.view); }, 1);
    ExpectError(ErrorCode::kData, {twice.name, "two parts"}, [&] { GgufFile file(model.Part(0)); });
  }
}

TEST(GgufSplit, LaterPartsAreKnownByName) {
  EXPECT_TRUE(IsLaterGgufPart("m-00002-of-00003.gguf"));
  EXPECT_FALSE(IsLaterGgufPart("m-00001-of-00003.gguf"));
  EXPECT_FALSE(IsLaterGgufPart("m.gguf"));
  EXPECT_FALSE(IsLaterGgufPart("m-0002-of-0003.gguf"));
  EXPECT_EQ(GgufPartPath("dir/m.gguf", 1, 3), "dir/m-00002-of-00003.gguf");
}

}  // namespace
}  // namespace cambium
