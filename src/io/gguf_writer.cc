#include "io/gguf_writer.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <type_traits>

#include "base/check.h"
#include "io/atomic_file.h"

namespace cambium {
namespace {

constexpr uint64_t kAlignment = 32;
constexpr int64_t kChunkBytes = int64_t{4} << 20;

template <class T>
void Append(std::string& out, const T& value) {
  static_assert(std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void AppendString(std::string& out, std::string_view text) {
  Append(out, static_cast<uint64_t>(text.size()));
  out += text;
}

template <class T>
std::string Scalar(GgufType type, T value) {
  std::string bytes;
  Append(bytes, static_cast<uint32_t>(type));
  Append(bytes, value);
  return bytes;
}

std::string ArrayHead(GgufType element, uint64_t count) {
  std::string bytes = Scalar(GgufType::kArray, static_cast<uint32_t>(element));
  Append(bytes, count);
  return bytes;
}

template <class T>
std::string Array(GgufType element, std::span<const T> values) {
  std::string bytes = ArrayHead(element, values.size());
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  return bytes;
}

uint64_t Padding(uint64_t size) { return (kAlignment - size % kAlignment) % kAlignment; }

template <class Item>
uint64_t Padded(const Item& item) {
  const auto bytes = static_cast<uint64_t>(item.rows * item.row_bytes);
  return bytes + Padding(bytes);
}

}  // namespace

void GgufWriter::SetBytes(std::string_view key, std::string bytes) {
  const auto found = std::find_if(pairs_.begin(), pairs_.end(), [&](const Pair& pair) { return pair.key == key; });
  if (found != pairs_.end()) {
    found->bytes = std::move(bytes);
  } else {
    pairs_.push_back({std::string(key), std::move(bytes)});
  }
}

void GgufWriter::Set(std::string_view key, uint32_t value) { SetBytes(key, Scalar(GgufType::kU32, value)); }
void GgufWriter::Set(std::string_view key, float value) { SetBytes(key, Scalar(GgufType::kF32, value)); }
void GgufWriter::Set(std::string_view key, bool value) { SetBytes(key, Scalar(GgufType::kBool, value)); }
void GgufWriter::Set(std::string_view key, std::span<const int32_t> values) {
  SetBytes(key, Array(GgufType::kI32, values));
}
void GgufWriter::Set(std::string_view key, std::span<const float> values) {
  SetBytes(key, Array(GgufType::kF32, values));
}

void GgufWriter::Set(std::string_view key, std::string_view value) {
  std::string bytes;
  Append(bytes, static_cast<uint32_t>(GgufType::kString));
  AppendString(bytes, value);
  SetBytes(key, std::move(bytes));
}

void GgufWriter::Set(std::string_view key, std::span<const std::string> values) {
  std::string bytes = ArrayHead(GgufType::kString, values.size());
  for (const std::string& value : values) AppendString(bytes, value);
  SetBytes(key, std::move(bytes));
}

void GgufWriter::Set(std::string_view key, const GgufValue& value) {
  if (key == "general.alignment") return;  // Write aligns to the default
  std::string bytes;
  if (value.type == GgufType::kArray) {
    bytes = ArrayHead(value.element, value.count);
  } else {
    Append(bytes, static_cast<uint32_t>(value.type));
  }
  bytes.append(reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size());
  SetBytes(key, std::move(bytes));
}

void GgufWriter::AddTensor(std::string name, DType dtype, std::vector<int64_t> shape, Fill fill) {
  Check(!shape.empty() && shape.size() <= Tensor::kMaxRank, "tensor rank is 1 to 4");
  Check(shape.back() % Info(dtype).block == 0, "rows are whole blocks");
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  const int64_t row_bytes = shape.back() / Info(dtype).block * Info(dtype).bytes;
  tensors_.push_back({std::move(name), dtype, std::move(shape), std::move(fill), rows, row_bytes});
}

void GgufWriter::AddTensor(std::string name, Tensor view) {
  const int64_t row_bytes = view.row_bytes();
  AddTensor(std::move(name), view.dtype, {view.shape.begin(), view.shape.begin() + view.rank},
            [view, row_bytes](int64_t row, int64_t rows, uint8_t* dst) {
              std::memcpy(dst, view.as<uint8_t>() + row * row_bytes, static_cast<size_t>(rows * row_bytes));
            });
}

void GgufWriter::WriteFile(AtomicFile& out, const std::vector<Pair>& pairs, std::span<const Item> items,
                           const std::function<void(uint64_t bytes)>& done) const {
  std::string header = "GGUF";
  Append(header, uint32_t{3});
  Append(header, static_cast<uint64_t>(items.size()));
  Append(header, static_cast<uint64_t>(pairs.size()));
  for (const Pair& pair : pairs) {
    AppendString(header, pair.key);
    header += pair.bytes;
  }
  uint64_t offset = 0;
  for (const Item& item : items) {
    AppendString(header, item.name);
    Append(header, static_cast<uint32_t>(item.shape.size()));
    for (auto extent = item.shape.rbegin(); extent != item.shape.rend(); ++extent) Append(header, *extent);
    Append(header, GgmlTypeOf(item.dtype));
    Append(header, offset);
    offset += Padded(item);
  }
  out.Write(header);
  out.Zeros(Padding(header.size()));
  std::vector<uint8_t> chunk;
  for (const Item& item : items) {
    const int64_t step = std::max<int64_t>(1, kChunkBytes / std::max<int64_t>(1, item.row_bytes));
    for (int64_t row = 0; row < item.rows; row += step) {
      const int64_t rows = std::min(step, item.rows - row);
      chunk.resize(static_cast<size_t>(rows * item.row_bytes));
      item.fill(row, rows, chunk.data());
      out.Write(chunk);
      done(chunk.size());
    }
    out.Zeros(Padding(static_cast<uint64_t>(item.rows * item.row_bytes)));
  }
}

std::string GgufWriter::Write(const std::string& path, const Progress& progress, uint64_t part_bytes) const {
  std::vector<std::span<const Item>> parts;
  uint64_t total = 0, in_part = 0, written = 0;
  for (size_t i = 0, begin = 0; i < tensors_.size(); ++i) {
    const uint64_t bytes = Padded(tensors_[i]);
    const bool begins = parts.empty() || (part_bytes > 0 && in_part + bytes > part_bytes);
    if (begins) {
      begin = i;
      in_part = 0;
      parts.emplace_back();
    }
    parts.back() = std::span(tensors_).subspan(begin, i + 1 - begin);
    in_part += bytes;
    total += bytes;
  }
  const auto done = [&](uint64_t bytes) {
    written += bytes;
    if (progress) progress(written, total);
  };
  if (parts.size() <= 1) {
    AtomicFile out(path);
    WriteFile(out, pairs_, tensors_, done);
    out.Commit();
    return path;
  }
  constexpr size_t kMostParts = 10000;
  if (parts.size() > kMostParts) {
    Fail(ErrorCode::kUsage, path, ": parts of ", part_bytes, " bytes would be ", parts.size(), ", at most ",
         kMostParts);
  }
  std::vector<std::unique_ptr<AtomicFile>> files;
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto count = static_cast<uint16_t>(parts.size());
    std::vector<Pair> pairs = i == 0 ? pairs_ : std::vector<Pair>();
    pairs.push_back({"split.no", Scalar(GgufType::kU16, static_cast<uint16_t>(i))});
    pairs.push_back({"split.count", Scalar(GgufType::kU16, count)});
    pairs.push_back({"split.tensors.count", Scalar(GgufType::kI32, static_cast<int32_t>(tensors_.size()))});
    files.push_back(std::make_unique<AtomicFile>(GgufPartPath(path, i, count)));
    WriteFile(*files.back(), pairs, parts[i], done);
  }
  for (const auto& file : files) file->Commit();
  return GgufPartPath(path, 0, parts.size());
}

}  // namespace cambium
