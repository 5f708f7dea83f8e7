#include "io/safetensors.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cstring>
#include <fstream>

#include "file_testing.h"
#include "families/hf_config.h"

namespace cambium {
namespace {

using testing::Bytes;

Bytes File(std::string_view header, size_t data_bytes = 0) {
  return Bytes().Str(header).Text(std::string(data_bytes, '\1'));
}

void Reject(const Bytes& bytes, std::initializer_list<std::string_view> parts) {
  testing::ExpectError(ErrorCode::kData, parts, [&] { SafetensorsFile("bad.safetensors", bytes.span()); });
}

std::string Entry(std::string_view name, std::string_view dtype, std::string_view shape, int begin, int end) {
  return "\"" + std::string(name) + "\":{\"dtype\":\"" + std::string(dtype) + "\",\"shape\":" + std::string(shape) +
         ",\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
}

TEST(Safetensors, ReadsWhatItWrote) {
  const TempFolder folder;
  std::vector<float> values = {1, 2, 3, 4, 5, 6};
  std::vector<uint16_t> halves = {0x3c00, 0x4000, 0x4200};
  const std::string path = folder / "a.safetensors";
  const std::vector<TensorToWrite> tensors = {{"half", Tensor(halves.data(), DType::kBF16, {3})},
                                              {"full", Tensor(values.data(), {2, 3})}};
  WriteSafetensors(path, tensors, {{"format", "pt"}});
  const SafetensorsFile file(path);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  ASSERT_NE(file.FindTensor("full"), nullptr);
  EXPECT_EQ(file.FindTensor("full")->rows(), 2);
  EXPECT_EQ(std::memcmp(file.FindTensor("full")->data, values.data(), 24), 0);
  EXPECT_EQ(std::memcmp(file.FindTensor("half")->data, halves.data(), 6), 0);
  EXPECT_EQ(file.FindTensor("none"), nullptr);
  // Writing over the mapped file leaves the mapping as it was.
  values[0] = 9;
  WriteSafetensors(path, tensors);
  EXPECT_EQ(*file.FindTensor("full")->f32(), 1);
  EXPECT_EQ(*SafetensorsFile(path).FindTensor("full")->f32(), 9);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);  // no temporary file stays
}

TEST(Safetensors, FailedWriteLeavesNothing) {
  float value = 1;
  testing::ExpectError(ErrorCode::kResource, {"cannot create"}, [&] {
    WriteSafetensors("/proc/no/such/folder.safetensors", {{"a", Tensor(&value, {1})}});
  });
}

// Rows 1 to 3: the header.
TEST(Safetensors, RejectsBadHeaders) {
  Reject(Bytes().Text("1234567"), {"bad.safetensors", "7 bytes"});
  for (uint64_t length : {uint64_t{1} << 63, ~uint64_t{0}, uint64_t{100'000'001}, uint64_t{3}}) {
    Reject(Bytes().Put(length).Text("{}"), {"header length", std::to_string(length)});
  }
  Reject(File(""), {"does not start with {"});
  Reject(File(" {}"), {"does not start with {"});
  Reject(File("[]"), {"does not start with {"});
  Reject(File("{\"a\":"), {"header"});
  Reject(File("{\"\xff\":{}}"), {"header"});
  Reject(File("{}{}"), {"header"});
}

// Row 4.
TEST(Safetensors, RejectsDuplicateNames) {
  Reject(File("{" + Entry("twin", "F32", "[1]", 0, 4) + "," + Entry("twin", "F32", "[1]", 4, 8) + "}", 8), {"twin"});
}

// Rows 5 and 6: overlap, holes, bytes left over, bytes missing.
TEST(Safetensors, RejectsRangesThatDoNotTile) {
  const auto two = [](int a, int b, int c, int d) {
    return "{" + Entry("first", "U8", "[" + std::to_string(b - a) + "]", a, b) + "," +
           Entry("second", "U8", "[" + std::to_string(d - c) + "]", c, d) + "}";
  };
  EXPECT_NO_THROW(SafetensorsFile("ok", File(two(0, 4, 4, 8), 8).span()));
  Reject(File(two(0, 4, 0, 4), 4), {"second", "overlaps"});
  Reject(File(two(0, 5, 4, 8), 8), {"second", "overlaps"});
  Reject(File(two(0, 4, 5, 8), 8), {"second", "hole of 1"});
  Reject(File(two(1, 4, 4, 8), 8), {"first", "hole of 1"});
  Reject(File(two(0, 4, 4, 8), 9), {"1 bytes after"});
  Reject(File(two(0, 4, 4, 8), 7), {"second", "ends at 8"});
}

// Row 7: sizes and types.
TEST(Safetensors, RejectsSizesThatDisagree) {
  const auto one = [](std::string_view dtype, std::string_view shape, int begin, int end) {
    return File("{" + Entry("t", dtype, shape, begin, end) + "}", 8);
  };
  EXPECT_NO_THROW(SafetensorsFile("ok", one("F32", "[2]", 0, 8).span()));
  Reject(one("F32", "[3]", 0, 8), {"tensor t", "8 bytes", "12"});
  Reject(one("F32", "[4294967296,4294967296]", 0, 8), {"tensor t", "overflows"});
  Reject(one("F32", "[4611686018427387904,2]", 0, 8), {"tensor t", "overflows"});
  Reject(one("F32", "[2305843009213693952]", 0, 8), {"tensor t", "overflows"});
  Reject(one("F32", "[-2]", 0, 8), {"tensor t", "-2"});
  Reject(one("F32", "[2.0]", 0, 8), {"tensor t", "2.0"});
  Reject(one("F32", "[18446744073709551615]", 0, 8), {"tensor t"});
  Reject(one("F31", "[2]", 0, 8), {"tensor t", "F31"});
  Reject(one("F32", "[2]", 8, 0), {"tensor t", "no range"});
  Reject(one("F32", "2", 0, 8), {"shape"});
  Reject(File("{\"t\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8), {"tensor t", "data_offsets"});
  Reject(File("{\"t\":7}", 8), {"tensor t", "not an object"});
  Reject(File("{\"__metadata__\":{\"a\":1}}"), {"__metadata__", "a"});
}

// Row 8: legal though unusual.
TEST(Safetensors, AcceptsEmptyScalarsAndPadding) {
  const Bytes bytes =
      File("{" + Entry("scalar", "F32", "[]", 0, 4) + "," + Entry("empty", "F32", "[0,7]", 4, 4) + "}   ", 4);
  const SafetensorsFile file("ok", bytes.span());
  EXPECT_EQ(file.FindTensor("scalar")->size(), 1);
  EXPECT_EQ(file.FindTensor("none"), nullptr);
  testing::ExpectError(ErrorCode::kData, {"ok", "empty", "extent of 0"}, [&] { file.FindTensor("empty"); });
  EXPECT_NO_THROW(SafetensorsFile("ok", File("{}").span()));
}

TEST(Safetensors, CopiesWhatIsNotAligned) {
  Bytes bytes = File("{" + Entry("odd", "U8", "[1]", 0, 1) + "," + Entry("f", "F32", "[1]", 1, 5) + "}", 1);
  bytes.Put(2.5f);
  const SafetensorsFile file("ok", bytes.span());
  EXPECT_EQ(*file.FindTensor("f")->f32(), 2.5f);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(file.FindTensor("f")->data) % 4, 0u);
  testing::ExpectError(ErrorCode::kData, {"odd", "U8", "not supported"}, [&] { file.FindTensor("odd"); });
}

// Row 9, and shards that disagree with their index.
TEST(Safetensors, OpensOnlyTheShardsOfItsDirectory) {
  const TempFolder folder;
  float a = 1, b = 2;
  WriteSafetensors(folder / "model-1.safetensors", {{"a", Tensor(&a, {1})}});
  WriteSafetensors(folder / "model-2.safetensors", {{"b", Tensor(&b, {1})}});
  const auto index = [&](std::string_view map) {
    testing::WriteFile(folder / "model.safetensors.index.json", "{\"weight_map\":" + std::string(map) + "}");
  };
  index(R"({"a":"model-1.safetensors","b":"model-2.safetensors"})");
  const ShardedSafetensors shards(folder.path());
  EXPECT_EQ(shards.tensors().size(), 2u);
  EXPECT_EQ(*shards.FindTensor("b")->f32(), 2);
  const auto reject = [&](std::string_view map, std::initializer_list<std::string_view> parts) {
    index(map);
    testing::ExpectError(ErrorCode::kData, parts, [&] { ShardedSafetensors{folder.path()}; });
  };
  reject(R"({"a":"model-3.safetensors"})", {"model-3.safetensors", "missing"});
  reject(R"({"a":"../model-1.safetensors"})", {"../model-1.safetensors", "not a shard"});
  reject(R"({"a":"/etc/passwd"})", {"/etc/passwd"});
  reject(R"({"a":"model-2.safetensors"})", {"tensor a", "not in model-2"});
  reject(R"({"a":7})", {"a", "7"});
  reject("[]", {"weight_map"});
  const TempFolder empty;
  testing::ExpectError(ErrorCode::kData, {"model.safetensors"}, [&] { ShardedSafetensors{empty.path()}; });
}

TEST(Safetensors, SurvivesRandomDamage) {
  const std::string whole =
      File("{" + Entry("first", "F32", "[2,1]", 0, 8) + "," + Entry("second", "F16", "[4]", 8, 16) + "}", 16).str();
  EXPECT_TRUE(rc::check([&] {
    std::string damaged = whole;
    const int edits = *rc::gen::inRange(1, 5);
    for (int i = 0; i < edits; ++i) {
      damaged[*rc::gen::inRange<size_t>(0, damaged.size())] =
          *rc::gen::elementOf(std::string("0129{}[]\",:\xff\0x", 15));
    }
    try {
      const SafetensorsFile file("x", {reinterpret_cast<const uint8_t*>(damaged.data()), damaged.size()});
      for (const NamedTensor& t : file.tensors()) RC_ASSERT(t.offset + t.bytes <= damaged.size());
    } catch (const Error& error) {
      RC_ASSERT(error.code() == ErrorCode::kData);
    }
  }));
}

constexpr const char* kLlama = R"({"model_type":"llama","vocab_size":100,"hidden_size":64,"num_hidden_layers":2,
  "num_attention_heads":4,"num_key_value_heads":2,"intermediate_size":128,"max_position_embeddings":512,
  "rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,
  "high_freq_factor":4.0,"original_max_position_embeddings":256},"rms_norm_eps":1e-5,"eos_token_id":[2,3],"head_dim":null})";

std::string With(std::string text, std::string_view from, std::string_view to) {
  return text.replace(text.find(from), from.size(), to);
}

TEST(HfConfig, ReadsLlama) {
  const HfConfig config = ParseHfConfig(kLlama, "c.json");
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.rope_scaling.type, "llama3");
  EXPECT_EQ(config.rope_scaling.original_context, 256);
  EXPECT_EQ(config.rope_theta, 500000.0);
  EXPECT_EQ(config.eos_ids, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(config.sliding_window, 0);
  EXPECT_FALSE(config.tied_head);
}

TEST(HfConfig, ReadsTheTextPartOfGemma3) {
  const HfConfig config = ParseHfConfig(
      R"({"model_type":"gemma3","eos_token_id":[1,106],"text_config":{"model_type":"gemma3_text","hidden_size":2560,
      "intermediate_size":10240,"num_hidden_layers":34,"sliding_window":1024,
      "rope_scaling":{"factor":8.0,"rope_type":"linear"}}})",
      "c.json");
  EXPECT_EQ(config.family->hf_type, std::string("gemma3_text"));
  EXPECT_EQ(config.vocab, 262208);
  EXPECT_EQ(config.head_dim, 256);
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_EQ(config.sliding_window, 1024);
  EXPECT_EQ(config.layer_slides[4], 1);
  EXPECT_EQ(config.layer_slides[5], 0);
  EXPECT_EQ(config.eos_ids.size(), 2u);
  EXPECT_TRUE(config.tied_head);
}

TEST(HfConfig, NamesTheFieldThatIsWrong) {
  const auto reject = [](std::string_view from, std::string_view to, std::initializer_list<std::string_view> parts) {
    testing::ExpectError(ErrorCode::kData, parts, [&] { ParseHfConfig(With(kLlama, from, to), "c.json"); });
  };
  reject(R"("vocab_size":100,)", "", {"c.json", "vocab_size", "missing"});
  reject(R"("num_hidden_layers":2)", R"("num_hidden_layers":0)", {"num_hidden_layers", "0"});
  reject(R"("num_attention_heads":4)", R"("num_attention_heads":-4)", {"num_attention_heads", "-4"});
  reject(R"("num_attention_heads":4)", R"("num_attention_heads":3)", {"num_key_value_heads"});
  reject(R"("hidden_size":64)", R"("hidden_size":9223372036854775808)", {"hidden_size"});
  reject(R"("hidden_size":64)", R"("hidden_size":"64")", {"hidden_size"});
  reject(R"("rms_norm_eps":1e-5)", R"("rms_norm_eps":-1)", {"rms_norm_eps", "-1"});
  reject(R"("llama3")", R"("magic")", {"rope_scaling", "magic"});
  reject(R"("factor":8.0)", R"("factor":0)", {"rope_scaling", "factor"});
  reject("[2,3]", "[2,100]", {"eos_token_id", "100"});
  reject("[2,3]", "100", {"eos_token_id", "100"});
  reject(R"("llama",)", R"("mamba",)", {"model_type", "mamba"});
}

}  // namespace
}  // namespace cambium
