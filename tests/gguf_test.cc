#include "io/gguf.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "file_testing.h"
#include "io/gguf_writer.h"
#include "io/quantize_model.h"
#include "tensor/half.h"
#include "tensor/quantize.h"

namespace cambium {
namespace {

using testing::Bytes;

// A header up to the metadata.
Bytes Head(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
  return Bytes().Text("GGUF").Put(version).Put(tensors).Put(keys);
}

void Reject(const Bytes& bytes, std::initializer_list<std::string_view> parts) {
  testing::ExpectError(ErrorCode::kData, parts, [&] { GgufFile("bad.gguf", bytes.span()); });
}

struct Tiny {
  std::string name = "a.weight";
  std::vector<int64_t> dims = {8};  // innermost first, as in the file
  uint32_t type = 0;
  uint64_t offset = 0;
};
Bytes& Put(Bytes& bytes, const Tiny& tensor) {
  bytes.Str(tensor.name).Put<uint32_t>(tensor.dims.size());
  for (int64_t extent : tensor.dims) bytes.Put(extent);
  return bytes.Put(tensor.type).Put(tensor.offset);
}
Bytes OneTensor(const Tiny& tensor, size_t data_bytes = 32) {
  Bytes bytes = Head(1, 0);
  Put(bytes, tensor).Pad(32).Text(std::string(data_bytes, '\0'));
  return bytes;
}

TEST(Gguf, ReadsWhatTheWriterWrote) {
  const TempFolder folder;
  const std::vector<float> values = {1, -2, 3.5f, 0, 5, 6};
  GgufWriter writer;
  writer.Set("general.architecture", "llama");
  writer.Set("a.u32", uint32_t{7});
  writer.Set("a.f32", 2.5f);
  writer.Set("a.bool", true);
  writer.Set("a.strings", std::span<const std::string>(std::vector<std::string>{"", "x", "yz"}));
  writer.Set("a.ints", std::span<const int32_t>(std::vector<int32_t>{-1, 2}));
  writer.Set("a.floats", std::span<const float>(std::vector<float>{0.5f}));
  writer.Set("a.u32", uint32_t{9});
  writer.AddTensor("m.weight", Tensor(const_cast<float*>(values.data()), {2, 3}));
  writer.AddTensor("v.weight", Tensor(const_cast<float*>(values.data()), {6}));
  writer.Write(folder / "a.gguf");

  const GgufFile file(folder / "a.gguf");
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.Str("general.architecture"), "llama");
  EXPECT_EQ(file.U64("a.u32"), 9u);
  EXPECT_EQ(file.U64("absent", 4), 4u);
  EXPECT_EQ(file.F64("a.f32"), 2.5);
  EXPECT_EQ(file.F64("a.u32"), 9.0);
  EXPECT_TRUE(file.Bool("a.bool"));
  EXPECT_EQ(file.Strings("a.strings"), (std::vector<std::string_view>{"", "x", "yz"}));
  EXPECT_EQ(file.Ints("a.ints"), (std::vector<int64_t>{-1, 2}));
  EXPECT_EQ(file.Floats("a.floats"), std::vector<float>{0.5f});
  ASSERT_EQ(file.tensors().size(), 2u);
  const Tensor* matrix = file.FindTensor("m.weight");
  ASSERT_NE(matrix, nullptr);
  EXPECT_EQ(matrix->rows(), 2);
  EXPECT_EQ(matrix->columns(), 3);
  EXPECT_EQ(std::memcmp(matrix->data, values.data(), 24), 0);
  EXPECT_EQ(file.FindTensor("absent"), nullptr);

  testing::ExpectError(ErrorCode::kData, {"a.gguf", "absent", "missing"}, [&] { file.U64("absent"); });
  testing::ExpectError(ErrorCode::kData, {"a.f32", "f32", "an integer"}, [&] { file.U64("a.f32"); });
  testing::ExpectError(ErrorCode::kData, {"a.u32", "not a string"}, [&] { file.Str("a.u32"); });
  testing::ExpectError(ErrorCode::kData, {"a.ints", "an array of i32"}, [&] { file.U64("a.ints"); });
}

// Row 11: magic, versions, byte order.
TEST(Gguf, RejectsOtherFilesAndVersions) {
  Reject(Bytes(), {"bad.gguf", "magic"});
  Reject(Bytes().Text("GGU"), {"magic"});
  Reject(Bytes().Text("GGML").Put<uint32_t>(3).Put<uint64_t>(0).Put<uint64_t>(0), {"not a GGUF file"});
  for (uint32_t version : {0u, 1u, 4u, 255u}) Reject(Head(0, 0, version), {"version", std::to_string(version)});
  Reject(Head(0, 0, 0x03000000u), {"big-endian"});
  EXPECT_NO_THROW(GgufFile("ok", Head(0, 0, 2).span()));
  EXPECT_NO_THROW(GgufFile("ok", Head(0, 0, 3).span()));
}

// Row 12: counts beyond the file.
TEST(Gguf, RejectsCountsThatExceedTheFile) {
  for (uint64_t count : {~uint64_t{0}, uint64_t{1} << 60, uint64_t{1} << 32, uint64_t{1}}) {
    Reject(Head(count, 0), {"tensor count"});
    Reject(Head(0, count), {"metadata count"});
  }
}

// Row 13: lengths of strings and arrays, nested arrays.
TEST(Gguf, RejectsLengthsThatExceedTheFile) {
  constexpr uint32_t kString = 8, kArray = 9, kU64 = 10;
  const std::string tail(32, 'x');
  for (uint64_t length : {~uint64_t{0}, uint64_t{1} << 63, uint64_t{1} << 40, uint64_t{100}}) {
    Reject(Head(0, 1).Put(length).Text(tail), {"metadata key"});
    Reject(Head(0, 1).Str("k").Put(kString).Put(length).Text(tail), {"k needs"});
    Reject(Head(0, 1).Str("k").Put(kArray).Put(kString).Put(length).Text(tail), {"k"});
    Reject(Head(0, 1).Str("k").Put(kArray).Put(kU64).Put(length).Text(tail), {"k"});
  }
  Reject(Head(0, 1).Str("k").Put(kArray).Put(kArray).Put<uint64_t>(1).Text(tail), {"k", "arrays of arrays"});
}

// Row 14: duplicate and empty keys, types.
TEST(Gguf, RejectsBadKeysAndTypes) {
  constexpr uint32_t kU8 = 0, kBool = 7;
  const auto key = [](Bytes&& bytes, std::string_view name) -> Bytes {
    return bytes.Str(name).Put(kU8).Put<uint8_t>(1);
  };
  Reject(key(key(Head(0, 2), "twin"), "twin"), {"twin", "twice"});
  Reject(key(Head(0, 1), "").Text("padding"), {"metadata key 0 is empty"});
  Reject(Head(0, 1).Str("k").Put<uint32_t>(13).Text("padding"), {"k", "type 13"});
  Reject(Head(0, 1).Str("k").Put(kBool).Put<uint8_t>(2), {"k", "not a bool"});
  Bytes twins = Head(2, 0);
  Put(twins, {});
  Put(twins, {.offset = 32}).Pad(32).Text(std::string(64, '\0'));
  Reject(twins, {"a.weight", "twice"});
  Reject(OneTensor({.name = ""}), {"tensor 0", "0 bytes"});
  Reject(OneTensor({.type = 4}), {"a.weight", "type 4"});
  Reject(OneTensor({.type = 1000}), {"type 1000"});
}

// Row 15.
TEST(Gguf, RejectsBadAlignment) {
  for (uint32_t alignment : {0u, 1u, 4u, 13u, 33u}) {
    Reject(Head(0, 1).Str("general.alignment").Put<uint32_t>(4).Put(alignment), {"general.alignment"});
  }
  Reject(Head(0, 1).Str("general.alignment").Put<uint32_t>(10).Put<uint64_t>(32), {"general.alignment", "not u32"});
}

// Row 16: ranks, extents, overflow.
TEST(Gguf, RejectsBadShapes) {
  Reject(OneTensor({.dims = {2, 2, 2, 2, 2}}), {"a.weight", "5 dimensions"});
  Reject(OneTensor({.dims = {-8}}), {"a.weight", "-8"});
  Reject(OneTensor({.dims = {8, 0}}), {"a.weight", "dimension 1 is 0"});
  Reject(OneTensor({.dims = {int64_t{1} << 62, 4}}), {"a.weight", "overflows"});
  Reject(OneTensor({.dims = {int64_t{1} << 62}}), {"a.weight", "overflows"});
  Reject(OneTensor({.dims = {int64_t{1} << 31, int64_t{1} << 31}}), {"a.weight"});
  Reject(OneTensor({.dims = {33}, .type = 2}), {"a.weight", "33 columns", "Q4_0"});
  // Two tensors, each below 2^64 bytes, whose sum is not.
  Bytes two = Head(2, 0);
  Put(two, {.dims = {int64_t{1} << 61}});
  Put(two, {.name = "b", .dims = {8}, .offset = (uint64_t{1} << 63)}).Pad(32).Text(std::string(64, '\0'));
  Reject(two, {"past the end"});
}

// Row 17: offsets and truncation.
TEST(Gguf, RejectsBadOffsets) {
  EXPECT_NO_THROW(GgufFile("ok", OneTensor({}).span()));
  Reject(OneTensor({.offset = 8}), {"a.weight", "not aligned to 32"});
  Reject(OneTensor({.offset = 32}), {"a.weight", "past the end"});
  Reject(OneTensor({.offset = ~uint64_t{31}}), {"a.weight", "past the end"});
  Reject(OneTensor({}, 31), {"a.weight", "past the end"});
  Bytes overlap = Head(2, 0);
  Put(overlap, {.dims = {16}});
  Put(overlap, {.name = "b", .offset = 32}).Pad(32).Text(std::string(64, '\0'));
  Reject(overlap, {"a.weight", "b", "overlap"});
}

TEST(Gguf, NamesATypeItCannotCompute) {
  const Bytes bytes = OneTensor({.dims = {256}, .type = 10}, 96);  // Q2_K
  const GgufFile file("q2.gguf", bytes.span());
  EXPECT_EQ(file.tensors()[0].type, "Q2_K");
  testing::ExpectError(ErrorCode::kData, {"a.weight", "Q2_K", "not supported"}, [&] { file.FindTensor("a.weight"); });
}

// Every prefix of a good file is an error, and none is a crash.
TEST(Gguf, RejectsEveryTruncation) {
  const std::string whole = testing::ReadFile(CAMBIUM_TEST_DIR "/golden/quantized.gguf");
  const auto* data = reinterpret_cast<const uint8_t*>(whole.data());
  for (size_t size = 0; size < whole.size(); size += size < 2000 ? 1 : 997) {
    const std::vector<uint8_t> part(data, data + size);
    EXPECT_THROW(GgufFile("part", part), Error) << size;
  }
}

TEST(Gguf, SurvivesRandomDamage) {
  const std::string whole = testing::ReadFile(CAMBIUM_TEST_DIR "/golden/quantized.gguf");
  EXPECT_TRUE(rc::check([&] {
    std::string damaged = whole;
    const int edits = *rc::gen::inRange(1, 8);
    for (int i = 0; i < edits; ++i) damaged[*rc::gen::inRange<size_t>(0, 1200)] = *rc::gen::arbitrary<char>();
    try {
      const GgufFile file("x", {reinterpret_cast<const uint8_t*>(damaged.data()), damaged.size()});
      for (const NamedTensor& t : file.tensors()) RC_ASSERT(t.offset + t.bytes <= damaged.size());
    } catch (const Error& error) {
      RC_ASSERT(error.code() == ErrorCode::kData);
    }
  }));
}

// Row 19: truncated while mapped.
TEST(MappedFile, TruncationIsAnErrorAndNotACrash) {
  const TempFolder folder;
  const std::string page(4096, 'x');
  std::string text;
  for (int i = 0; i < 64; ++i) text += page;
  testing::WriteFile(folder / "victim", text);
  testing::WriteFile(folder / "other", text);
  MappedFile victim(folder / "victim");
  const MappedFile other(folder / "other");
  victim.CheckIntact();
  ASSERT_EQ(truncate((folder / "victim").c_str(), 5000), 0);
  uint64_t sum = 0;
  for (uint8_t byte : victim.bytes()) sum += byte;
  EXPECT_LE(sum, uint64_t{5000} * 'x');
  testing::ExpectError(ErrorCode::kData, {"victim", "truncated"}, [&] { victim.CheckIntact(); });
  other.CheckIntact();
  for (uint8_t byte : other.bytes()) ASSERT_EQ(byte, 'x');
  // It stays an error when the file grows back: the pages that were read are gone.
  ASSERT_EQ(truncate((folder / "victim").c_str(), static_cast<off_t>(text.size())), 0);
  testing::ExpectError(ErrorCode::kData, {"victim"}, [&] { victim.CheckIntact(); });
}

TEST(MappedFile, EvictedPagesComeBack) {
  const TempFolder folder;
  testing::WriteFile(folder / "a", std::string(100000, 'y'));
  const MappedFile file(folder / "a");
  file.Evict(file.bytes().data(), file.bytes().size());
  file.Evict(file.bytes().data() + 1, ~uint64_t{0});  // out of range: ignored
  for (uint8_t byte : file.bytes()) ASSERT_EQ(byte, 'y');
  testing::ExpectError(ErrorCode::kData, {"absent", "cannot open"}, [&] { MappedFile(folder / "absent"); });
  testing::ExpectError(ErrorCode::kData, {"is a directory"}, [&] { MappedFile{folder.path()}; });
}

// gguf-py's decoding of random blocks (tools/make_quant_golden.py), bit for bit.
TEST(Quantize, DecodesAsGgufPy) {
  const GgufFile golden(CAMBIUM_TEST_DIR "/golden/quantized.gguf");
  int types = 0;
  for (const NamedTensor& tensor : golden.tensors()) {
    if (!IsQuantized(tensor.view.dtype)) continue;
    const Tensor* expected = golden.FindTensor(tensor.name + ".f32");
    ASSERT_NE(expected, nullptr);
    std::vector<float> decoded(static_cast<size_t>(tensor.view.size()));
    Dequantize(tensor.view.dtype, tensor.view.data, decoded.data(), tensor.view.size());
    for (size_t i = 0; i < decoded.size(); ++i) ASSERT_EQ(decoded[i], expected->f32()[i]) << tensor.name << " " << i;
    ++types;
  }
  EXPECT_EQ(types, 8);
}

double RelativeRmse(DType type, const std::vector<float>& values) {
  const auto count = static_cast<int64_t>(values.size());
  std::vector<uint8_t> stored(values.size() / Info(type).block * Info(type).bytes);
  std::vector<float> decoded(values.size());
  Quantize(type, values.data(), stored.data(), count);
  Dequantize(type, stored.data(), decoded.data(), count);
  double error = 0, power = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    error += (decoded[i] - values[i]) * (decoded[i] - values[i]);
    power += values[i] * values[i];
  }
  return std::sqrt(error / power);
}

TEST(Quantize, ErrorIsAtMostThatOfGgmlsReferenceQuantisers) {
  std::mt19937 engine(3);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> values(1 << 16);
  for (float& value : values) value = normal(engine);
  // ggml's on normal values, as a share of their deviation: 0.00535, 0.0859, 0.0782, 0.0713.
  EXPECT_LT(RelativeRmse(DType::kQ8_0, values), 0.0054);
  EXPECT_LT(RelativeRmse(DType::kQ4_0, values), 0.0859);
  EXPECT_LT(RelativeRmse(DType::kQ4_1, values), 0.0782);
  EXPECT_LT(RelativeRmse(DType::kQ4_K, values), 0.0713);
  EXPECT_GT(RelativeRmse(DType::kQ4_0, values), 0.05);  // the measure can fail
}

TEST(Quantize, AnyInputGivesFiniteBlocksOrDefinedOnes) {
  for (DType type : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ4_K}) {
    for (float value : {0.0f, 1.0f, -3.0f, 1e-30f, 6e4f}) {
      const std::vector<float> constant(256, value);
      std::vector<uint8_t> stored(256 / Info(type).block * Info(type).bytes);
      std::vector<float> decoded(256);
      Quantize(type, constant.data(), stored.data(), 256);
      Dequantize(type, stored.data(), decoded.data(), 256);
      for (float x : decoded) EXPECT_NEAR(x, value, 0.01f * std::fabs(value) + 1e-6f) << Info(type).name;
    }
    const std::vector<float> nan(256, std::numeric_limits<float>::quiet_NaN());
    std::vector<uint8_t> stored(256 / Info(type).block * Info(type).bytes);
    Quantize(type, nan.data(), stored.data(), 256);
  }
}

TEST(Half, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = HalfToFloat(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(value))));
    } else {
      ASSERT_EQ(FloatToHalf(value), half);
      ASSERT_EQ(FloatToBFloat16(BFloat16ToFloat(half)), half);
    }
  }
}

// Between two neighbours the nearest wins, and the even one in the middle.
TEST(Half, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const double low = HalfToFloat(static_cast<uint16_t>(bits)), high = HalfToFloat(static_cast<uint16_t>(bits + 1));
    const auto middle = static_cast<float>((low + high) / 2);
    ASSERT_EQ(FloatToHalf(middle), bits + (bits & 1));
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 0.0f)), bits);
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, INFINITY)), bits + 1);
  }
  EXPECT_EQ(FloatToHalf(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(-INFINITY), 0xfc00);
}

TEST(QuantizeModel, KeepsNormsWideAndRefusesASecondLoss) {
  const TempFolder folder;
  std::vector<float> values(64 * 64);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
  GgufWriter writer;
  writer.Set("general.architecture", "llama");
  writer.AddTensor("token_embd.weight", Tensor(values.data(), {64, 64}));
  writer.AddTensor("blk.0.attn_norm.weight", Tensor(values.data(), {64}));
  writer.AddTensor("blk.0.attn_q.weight", Tensor(values.data(), {64, 64}));
  writer.AddTensor("blk.0.ffn_up.weight", Tensor(values.data(), {128, 32}));
  writer.Write(folder / "f32.gguf");
  ThreadPool pool(2);
  const QuantizeReport report = QuantizeModel(pool, folder / "f32.gguf", folder / "q.gguf", DType::kQ4_0, false);
  EXPECT_EQ(report.converted, 2);
  EXPECT_EQ(report.fallback, 1);
  const GgufFile file(folder / "q.gguf");
  EXPECT_EQ(file.FindTensor("token_embd.weight")->dtype, DType::kQ8_0);  // it is the head too
  EXPECT_EQ(file.FindTensor("blk.0.attn_norm.weight")->dtype, DType::kF32);
  EXPECT_EQ(file.FindTensor("blk.0.attn_q.weight")->dtype, DType::kQ4_0);
  EXPECT_EQ(file.U64("general.file_type"), 2u);

  testing::ExpectError(ErrorCode::kUsage, {"q.gguf", "already"},
                       [&] { QuantizeModel(pool, folder / "q.gguf", folder / "r.gguf", DType::kQ4_1, false); });
  EXPECT_FALSE(std::filesystem::exists(folder / "r.gguf"));
  EXPECT_NO_THROW(QuantizeModel(pool, folder / "q.gguf", folder / "r.gguf", DType::kQ4_1, true));
  testing::ExpectError(ErrorCode::kUsage, {"Q2_K", "Q4_0"}, [] { ParseQuantizeType("Q2_K"); });

  values[70] = NAN;
  GgufWriter broken;
  broken.AddTensor("blk.0.attn_q.weight", Tensor(values.data(), {64, 64}));
  broken.Write(folder / "nan.gguf");
  testing::ExpectError(ErrorCode::kData, {"blk.0.attn_q.weight", "NaN"},
                       [&] { QuantizeModel(pool, folder / "nan.gguf", folder / "s.gguf", DType::kQ8_0, false); });
  EXPECT_FALSE(std::filesystem::exists(folder / "s.gguf"));
}

}  // namespace
}  // namespace cambium
