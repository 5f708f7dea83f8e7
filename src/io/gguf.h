#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "io/mapped_file.h"
#include "io/named_tensor.h"

namespace cambium {

// Metadata types, numbered as in the file (github.com/ggml-org/ggml/blob/master/docs/gguf.md).
enum class GgufType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };
std::string_view Name(GgufType type);

// One metadata value, still in its stored bytes: they are checked when the file is opened and decoded when asked for.
struct GgufValue {
  GgufType type;                   // kArray for an array
  GgufType element;                // of an array; else equal to type
  uint64_t count;                  // elements of an array; else 1
  std::span<const uint8_t> bytes;  // the payload, without type and count
};

// How a ggml tensor type is stored; dtype is empty for types that the engine does not compute with.
struct GgmlTypeInfo {
  std::string_view name;
  int block, bytes;  // values and bytes of a block
  std::optional<DType> dtype;
};
const GgmlTypeInfo* FindGgmlType(uint32_t type);  // null: no such type
uint32_t GgmlTypeOf(DType dtype);                 // kI32 and kI64 included

// "NAME-00002-of-00003.gguf" for NAME.gguf and part 1 of 3, as llama.cpp's gguf-split names them.
std::string GgufPartPath(const std::string& path, uint64_t number, uint64_t count);
// Whether a file's name is that of a part of a split model, and not of the first, which stands for all.
bool IsLaterGgufPart(std::string_view name);

// A GGUF file, version 2 or 3, little-endian. Opening reads the header only; every count is bounded by the bytes that
// remain. Errors are kData and name the file and the key or tensor.
// A split model (NAME-00001-of-00003.gguf, split.count 3) is opened by any part's name and is one file: the first
// part's metadata without the keys split.*, and all tensors.
class GgufFile {
 public:
  explicit GgufFile(const std::string& path);
  GgufFile(std::string name, std::span<const uint8_t> bytes);  // borrows the memory
  GgufFile(GgufFile&&) = default;
  GgufFile& operator=(GgufFile&&) = default;

  const std::string& path() const { return path_; }
  uint32_t version() const { return version_; }
  uint64_t alignment() const { return alignment_; }
  uint64_t size() const;  // bytes, of all parts
  size_t parts() const { return 1 + rest_.size(); }

  const std::vector<std::pair<std::string, GgufValue>>& metadata() const { return metadata_; }  // in file order
  const GgufValue* Find(std::string_view key) const;                                            // null: absent

  // A missing key gives `fallback`, or an error where there is none; so does a value of another kind.
  uint64_t U64(std::string_view key, std::optional<uint64_t> fallback = {}) const;  // any integer >= 0
  double F64(std::string_view key, std::optional<double> fallback = {}) const;      // any number
  bool Bool(std::string_view key, std::optional<bool> fallback = {}) const;
  std::string Str(std::string_view key, std::optional<std::string> fallback = {}) const;

  // Arrays; a missing key gives an empty one, a scalar one element. Strings view the file and live as long as it.
  std::vector<std::string_view> Strings(std::string_view key) const;
  std::vector<float> Floats(std::string_view key) const;
  std::vector<int64_t> Ints(std::string_view key) const;  // integers and bools

  const std::vector<NamedTensor>& tensors() const { return tensors_; }  // in file order
  // Null if absent; kData if its type is one that the engine cannot compute with: an integer, a quantised type it
  // lacks.
  const Tensor* FindTensor(std::string_view name) const;
  const Tensor* FindStored(std::string_view name) const;  // integers too

  void CheckIntact() const;  // kData if the file was truncated since; call it after reading tensors
  // Drops rows [row, row + rows) of `view` from resident memory.
  void Evict(const Tensor& view, int64_t row, int64_t rows) const noexcept;
  void Evict(const Tensor& view) const noexcept { Evict(view, 0, view.rows()); }

 private:
  class Cursor;
  struct OnePart {};
  GgufFile(const std::string& path, OnePart);
  void Parse();
  void Join(uint64_t count);
  void AddPart(GgufFile part, uint64_t number, uint64_t count);
  void IndexNames();
  void ReadMetadata(Cursor& in, uint64_t count);
  void ReadTensors(Cursor& in, uint64_t count);
  const GgufValue* Require(std::string_view key, bool has_fallback) const;
  [[noreturn]] void WrongType(std::string_view key, const GgufValue& value, std::string_view wanted) const;

  std::string path_;
  std::optional<MappedFile> file_;
  std::span<const uint8_t> bytes_;
  uint32_t version_ = 0;
  uint64_t alignment_ = 32;
  std::vector<std::pair<std::string, GgufValue>> metadata_;
  std::vector<NamedTensor> tensors_;
  std::unordered_map<std::string_view, size_t> tensor_index_, key_index_;  // keys view the vectors above
  std::vector<GgufFile> rest_;  // the parts behind the first, whose memory the tensors view
};

}  // namespace cambium
