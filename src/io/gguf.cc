#include "io/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>

#include "base/check.h"

namespace cambium {

static_assert(std::endian::native == std::endian::little, "model files are mapped as they are");

namespace {

constexpr uint64_t kMaxKeyBytes = 65535;   // the format's own limit
constexpr uint64_t kMaxNameBytes = 65535;  // ggml stops at 64; converters have written longer names
constexpr uint32_t kMaxDims = 4;

constexpr std::array<std::string_view, 13> kTypeNames = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                         "bool", "string", "array", "u64", "i64", "f64"};
constexpr std::array<int, 13> kTypeBytes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

template <class T>
T Load(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

// The element at `bytes` as a signed integer; empty if its type is not an integer.
std::optional<__int128> Integer(GgufType type, const uint8_t* bytes) {
  switch (type) {
    case GgufType::kU8:
      return Load<uint8_t>(bytes);
    case GgufType::kI8:
      return Load<int8_t>(bytes);
    case GgufType::kU16:
      return Load<uint16_t>(bytes);
    case GgufType::kI16:
      return Load<int16_t>(bytes);
    case GgufType::kU32:
      return Load<uint32_t>(bytes);
    case GgufType::kI32:
      return Load<int32_t>(bytes);
    case GgufType::kU64:
      return Load<uint64_t>(bytes);
    case GgufType::kI64:
      return Load<int64_t>(bytes);
    default:
      return {};
  }
}

std::optional<double> Number(GgufType type, const uint8_t* bytes) {
  if (type == GgufType::kF32) return Load<float>(bytes);
  if (type == GgufType::kF64) return Load<double>(bytes);
  if (const auto integer = Integer(type, bytes)) return static_cast<double>(*integer);
  return {};
}

}  // namespace

std::string_view Name(GgufType type) { return kTypeNames[static_cast<size_t>(type)]; }

const GgmlTypeInfo* FindGgmlType(uint32_t type) {
  static const std::array<GgmlTypeInfo, 42> kTypes = [] {
    std::array<GgmlTypeInfo, 42> table{};
    const auto ours = [&](int index, DType dtype) {
      const DTypeInfo& info = Info(dtype);
      table[index] = {info.name, info.block, info.bytes, dtype};
    };
    ours(0, DType::kF32), ours(1, DType::kF16), ours(30, DType::kBF16), ours(26, DType::kI32), ours(27, DType::kI64);
    ours(2, DType::kQ4_0), ours(3, DType::kQ4_1), ours(6, DType::kQ5_0), ours(7, DType::kQ5_1), ours(8, DType::kQ8_0);
    ours(12, DType::kQ4_K), ours(13, DType::kQ5_K), ours(14, DType::kQ6_K);
    table[9] = {"Q8_1", 32, 36, {}}, table[10] = {"Q2_K", 256, 84, {}}, table[11] = {"Q3_K", 256, 110, {}};
    table[15] = {"Q8_K", 256, 292, {}}, table[16] = {"IQ2_XXS", 256, 66, {}}, table[17] = {"IQ2_XS", 256, 74, {}};
    table[18] = {"IQ3_XXS", 256, 98, {}}, table[19] = {"IQ1_S", 256, 50, {}}, table[20] = {"IQ4_NL", 32, 18, {}};
    table[21] = {"IQ3_S", 256, 110, {}}, table[22] = {"IQ2_S", 256, 82, {}}, table[23] = {"IQ4_XS", 256, 136, {}};
    table[24] = {"I8", 1, 1, {}}, table[25] = {"I16", 1, 2, {}}, table[28] = {"F64", 1, 8, {}};
    table[29] = {"IQ1_M", 256, 56, {}}, table[34] = {"TQ1_0", 256, 54, {}}, table[35] = {"TQ2_0", 256, 66, {}};
    table[39] = {"MXFP4", 32, 17, {}}, table[40] = {"NVFP4", 64, 36, {}}, table[41] = {"Q1_0", 128, 18, {}};
    return table;
  }();
  return type < kTypes.size() && kTypes[type].block > 0 ? &kTypes[type] : nullptr;
}

uint32_t GgmlTypeOf(DType dtype) {
  for (uint32_t type = 0;; ++type) {
    const GgmlTypeInfo* info = FindGgmlType(type);
    if (info != nullptr && info->dtype == dtype) return type;
  }
}

// Reads forward through the file; running out of bytes throws, naming what was being read.
class GgufFile::Cursor {
 public:
  Cursor(const std::string& path, std::span<const uint8_t> bytes) : path_(path), bytes_(bytes) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return bytes_.size() - position_; }

  std::span<const uint8_t> Take(uint64_t bytes, std::string_view what) {
    if (bytes > remaining()) {
      Fail(ErrorCode::kData, path_, ": ", what, " needs ", bytes, " bytes at offset ", position_, ", but ", remaining(),
           " remain");
    }
    const auto taken = bytes_.subspan(position_, bytes);
    position_ += bytes;
    return taken;
  }

  template <class T>
  T Get(std::string_view what) {
    return Load<T>(Take(sizeof(T), what).data());
  }

  std::string_view String(std::string_view what) {
    const auto length = Get<uint64_t>(what);
    const auto bytes = Take(length, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  GgufType Type(std::string_view what) {
    const auto type = Get<uint32_t>(what);
    if (type >= kTypeNames.size()) Fail(ErrorCode::kData, path_, ": ", what, ": metadata type ", type, " is unknown");
    return static_cast<GgufType>(type);
  }

  // `count` elements of `type`, their contents checked.
  std::span<const uint8_t> Payload(GgufType type, uint64_t count, std::string_view what) {
    const uint64_t begin = position_;
    if (type == GgufType::kString) {
      // Each string takes 8 bytes at least, so a false count stops here and not after a long loop.
      if (count > remaining() / sizeof(uint64_t)) Take(std::numeric_limits<uint64_t>::max(), what);
      for (uint64_t i = 0; i < count; ++i) String(what);
    } else {
      const auto bytes =
          Take(CheckedMul(count, static_cast<uint64_t>(kTypeBytes[static_cast<size_t>(type)]), what), what);
      if (type == GgufType::kBool) {
        for (uint8_t byte : bytes) {
          if (byte > 1) Fail(ErrorCode::kData, path_, ": ", what, ": ", int{byte}, " is not a bool");
        }
      }
    }
    return bytes_.subspan(begin, position_ - begin);
  }

 private:
  const std::string& path_;
  std::span<const uint8_t> bytes_;
  uint64_t position_ = 0;
};

GgufFile::GgufFile(const std::string& path) : GgufFile(path, OnePart()) {
  if (const uint64_t count = U64("split.count", 1); count > 1) Join(count);
}

GgufFile::GgufFile(const std::string& path, OnePart) : path_(path), file_(path), bytes_(file_->bytes()) { Parse(); }

GgufFile::GgufFile(std::string name, std::span<const uint8_t> bytes) : path_(std::move(name)), bytes_(bytes) {
  Parse();
}

void GgufFile::Parse() {
  Cursor in(path_, bytes_);
  const auto magic = in.Take(4, "magic");
  if (std::memcmp(magic.data(), "GGUF", 4) != 0) Fail(ErrorCode::kData, path_, ": not a GGUF file (magic is wrong)");
  version_ = in.Get<uint32_t>("version");
  if (version_ != 0 && (version_ & 0xffff) == 0) {
    Fail(ErrorCode::kData, path_, ": version ", version_, ": the file is big-endian, which is not supported");
  }
  if (version_ < 2 || version_ > 3) Fail(ErrorCode::kData, path_, ": GGUF version ", version_, " is not 2 or 3");
  const auto tensors = in.Get<uint64_t>("tensor count");
  const auto keys = in.Get<uint64_t>("metadata count");
  // The least a tensor (name length, rank, type, offset) and a key (length, 1 byte, type, 1 byte) can take.
  if (tensors > in.remaining() / 24) Fail(ErrorCode::kData, path_, ": tensor count ", tensors, " exceeds the file");
  if (keys > in.remaining() / 14) Fail(ErrorCode::kData, path_, ": metadata count ", keys, " exceeds the file");
  ReadMetadata(in, keys);
  ReadTensors(in, tensors);
  CheckIntact();
}

void GgufFile::ReadMetadata(Cursor& in, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    const std::string_view key = in.String("metadata key");
    if (key.empty()) Fail(ErrorCode::kData, path_, ": metadata key ", i, " is empty");
    if (key.size() > kMaxKeyBytes) Fail(ErrorCode::kData, path_, ": metadata key ", i, " has ", key.size(), " bytes");
    GgufValue value{in.Type(key), GgufType::kU8, 1, {}};
    value.element = value.type;
    if (value.type == GgufType::kArray) {
      value.element = in.Type(key);
      value.count = in.Get<uint64_t>(key);
      if (value.element == GgufType::kArray) Fail(ErrorCode::kData, path_, ": ", key, ": arrays of arrays are refused");
    }
    value.bytes = in.Payload(value.element, value.count, key);
    metadata_.emplace_back(key, value);
  }
  for (size_t i = 0; i < metadata_.size(); ++i) {
    const std::string& key = metadata_[i].first;
    if (!key_index_.emplace(key, i).second) Fail(ErrorCode::kData, path_, ": metadata key ", key, " appears twice");
  }
  if (const GgufValue* alignment = Find("general.alignment")) {
    if (alignment->type != GgufType::kU32) WrongType("general.alignment", *alignment, "u32");
    alignment_ = Load<uint32_t>(alignment->bytes.data());
    if (alignment_ < 8 || !std::has_single_bit(alignment_)) {
      Fail(ErrorCode::kData, path_, ": general.alignment ", alignment_, " is not a power of two from 8");
    }
  }
}

void GgufFile::ReadTensors(Cursor& in, uint64_t count) {
  std::vector<uint32_t> types;
  for (uint64_t i = 0; i < count; ++i) {
    NamedTensor tensor;
    tensor.name = in.String("tensor name");
    const std::string& name = tensor.name;
    if (name.empty() || name.size() > kMaxNameBytes) {
      Fail(ErrorCode::kData, path_, ": tensor ", i, " has a name of ", name.size(), " bytes");
    }
    const auto rank = in.Get<uint32_t>(name);
    if (rank > kMaxDims) Fail(ErrorCode::kData, path_, ": tensor ", name, ": ", rank, " dimensions; 4 is the most");
    int64_t elements = 1;
    for (uint32_t d = 0; d < rank; ++d) {
      const auto extent = in.Get<int64_t>(name);
      if (extent < 1) Fail(ErrorCode::kData, path_, ": tensor ", name, ": dimension ", d, " is ", extent);
      elements = CheckedMul(elements, extent, path_ + ": tensor " + name + ": size");
      tensor.shape.insert(tensor.shape.begin(), extent);
    }
    if (rank == 0) tensor.shape = {1};
    const auto type = in.Get<uint32_t>(name);
    const GgmlTypeInfo* info = FindGgmlType(type);
    if (info == nullptr) Fail(ErrorCode::kData, path_, ": tensor ", name, ": type ", type, " is unknown");
    if (tensor.shape.back() % info->block != 0) {
      Fail(ErrorCode::kData, path_, ": tensor ", name, ": ", tensor.shape.back(), " columns are no multiple of ",
           info->name, "'s block of ", info->block);
    }
    tensor.type = info->name;
    tensor.bytes = CheckedMul(static_cast<uint64_t>(elements / info->block), static_cast<uint64_t>(info->bytes),
                              path_ + ": tensor " + name + ": bytes");
    tensor.offset = in.Get<uint64_t>(name);
    if (tensor.offset % alignment_ != 0) {
      Fail(ErrorCode::kData, path_, ": tensor ", name, ": offset ", tensor.offset, " is not aligned to ", alignment_);
    }
    types.push_back(type);
    tensors_.push_back(std::move(tensor));
  }

  const uint64_t header = in.position();
  const uint64_t data = CheckedAdd(header, alignment_ - 1, path_ + ": header") / alignment_ * alignment_;
  const uint64_t room = data <= bytes_.size() ? bytes_.size() - data : 0;
  std::vector<std::pair<uint64_t, size_t>> ranges;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    NamedTensor& tensor = tensors_[i];
    if (!tensor_index_.emplace(tensor.name, i).second) {
      Fail(ErrorCode::kData, path_, ": tensor ", tensor.name, " appears twice");
    }
    if (tensor.offset > room || tensor.bytes > room - tensor.offset) {
      Fail(ErrorCode::kData, path_, ": tensor ", tensor.name, ": ", tensor.bytes, " bytes at offset ", tensor.offset,
           " go past the end of the file's ", room, " bytes of data");
    }
    tensor.offset += data;
    ranges.emplace_back(tensor.offset, i);
    const GgmlTypeInfo* info = FindGgmlType(types[i]);
    if (!info->dtype) continue;
    tensor.view.data = const_cast<uint8_t*>(bytes_.data() + tensor.offset);
    tensor.view.dtype = *info->dtype;
    tensor.view.rank = static_cast<int>(tensor.shape.size());
    std::copy(tensor.shape.begin(), tensor.shape.end(), tensor.view.shape.begin());
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) {
    const NamedTensor &before = tensors_[ranges[i - 1].second], &after = tensors_[ranges[i].second];
    if (before.offset + before.bytes > after.offset) {
      Fail(ErrorCode::kData, path_, ": tensors ", before.name, " and ", after.name, " overlap");
    }
  }
}

const GgufValue* GgufFile::Find(std::string_view key) const {
  const auto found = key_index_.find(key);
  return found == key_index_.end() ? nullptr : &metadata_[found->second].second;
}

const GgufValue* GgufFile::Require(std::string_view key, bool has_fallback) const {
  const GgufValue* value = Find(key);
  if (value == nullptr && !has_fallback) Fail(ErrorCode::kData, path_, ": metadata key ", key, " is missing");
  return value;
}

void GgufFile::WrongType(std::string_view key, const GgufValue& value, std::string_view wanted) const {
  Fail(ErrorCode::kData, path_, ": metadata key ", key, " is ", value.type == GgufType::kArray ? "an array of " : "",
       Name(value.element), ", not ", wanted);
}

uint64_t GgufFile::U64(std::string_view key, std::optional<uint64_t> fallback) const {
  const GgufValue* value = Require(key, fallback.has_value());
  if (value == nullptr) return *fallback;
  if (value->type == GgufType::kArray) WrongType(key, *value, "an integer");
  const auto integer = Integer(value->type, value->bytes.data());
  if (!integer) WrongType(key, *value, "an integer");
  if (*integer < 0) Fail(ErrorCode::kData, path_, ": metadata key ", key, " is negative");
  return static_cast<uint64_t>(*integer);
}

double GgufFile::F64(std::string_view key, std::optional<double> fallback) const {
  const GgufValue* value = Require(key, fallback.has_value());
  if (value == nullptr) return *fallback;
  if (value->type == GgufType::kArray) WrongType(key, *value, "a number");
  const auto number = Number(value->type, value->bytes.data());
  if (!number) WrongType(key, *value, "a number");
  return *number;
}

bool GgufFile::Bool(std::string_view key, std::optional<bool> fallback) const {
  const GgufValue* value = Require(key, fallback.has_value());
  if (value == nullptr) return *fallback;
  if (value->type != GgufType::kBool) WrongType(key, *value, "a bool");
  return value->bytes[0] != 0;
}

std::string GgufFile::Str(std::string_view key, std::optional<std::string> fallback) const {
  const GgufValue* value = Require(key, fallback.has_value());
  if (value == nullptr) return *std::move(fallback);
  if (value->type != GgufType::kString) WrongType(key, *value, "a string");
  return std::string(Strings(key)[0]);
}

std::vector<std::string_view> GgufFile::Strings(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return {};
  if (value->element != GgufType::kString) WrongType(key, *value, "strings");
  std::vector<std::string_view> strings(value->count);
  Cursor in(path_, value->bytes);
  for (std::string_view& string : strings) string = in.String(key);
  return strings;
}

std::vector<float> GgufFile::Floats(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return {};
  std::vector<float> floats(value->count);
  const uint8_t* at = value->bytes.data();
  for (float& number : floats) {
    const auto read = Number(value->element, at);
    if (!read) WrongType(key, *value, "numbers");
    number = static_cast<float>(*read);
    at += kTypeBytes[static_cast<size_t>(value->element)];
  }
  return floats;
}

std::vector<int64_t> GgufFile::Ints(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return {};
  const GgufType element = value->element == GgufType::kBool ? GgufType::kU8 : value->element;
  std::vector<int64_t> integers(value->count);
  const uint8_t* at = value->bytes.data();
  for (int64_t& integer : integers) {
    const auto read = Integer(element, at);
    if (!read) WrongType(key, *value, "integers");
    if (*read > std::numeric_limits<int64_t>::max()) Fail(ErrorCode::kData, path_, ": ", key, ": a value is too large");
    integer = static_cast<int64_t>(*read);
    at += kTypeBytes[static_cast<size_t>(element)];
  }
  return integers;
}

const Tensor* GgufFile::FindStored(std::string_view name) const {
  const auto found = tensor_index_.find(name);
  if (found == tensor_index_.end()) return nullptr;
  const NamedTensor& tensor = tensors_[found->second];
  if (!tensor.view) Fail(ErrorCode::kData, path_, ": tensor ", name, ": type ", tensor.type, " is not supported");
  return &tensor.view;
}

const Tensor* GgufFile::FindTensor(std::string_view name) const {
  const Tensor* const stored = FindStored(name);
  if (stored == nullptr || (stored->dtype != DType::kI32 && stored->dtype != DType::kI64)) return stored;
  Fail(ErrorCode::kData, path_, ": tensor ", name, ": type ", Info(stored->dtype).name,
       ", but weights are no integers");
}

}  // namespace cambium
