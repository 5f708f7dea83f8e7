#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/mapped_file.h"
#include "io/named_tensor.h"
#include "tensor/buffer.h"

namespace cambium {

// One .safetensors file (github.com/huggingface/safetensors). Opening reads the header only and refuses what the
// reference reader refuses: a false header length, duplicate names, ranges that overlap, leave holes or do not end with
// the file, and sizes that differ from shape x type. Errors are kData and name the file and the tensor.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);
  SafetensorsFile(std::string name, std::span<const uint8_t> bytes);  // borrows the memory

  const std::string& path() const { return path_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::vector<NamedTensor>& tensors() const { return tensors_; }  // in the order of their bytes; rank 0 is [1]
  // Null if absent; kData if the type or rank is not supported, or if it holds integers and so no weights.
  const Tensor* FindTensor(std::string_view name) const;
  const Tensor* FindStored(std::string_view name) const;  // integers too
  void CheckIntact() const;                               // kData if the file was truncated since
  void Evict(const Tensor& view, int64_t row, int64_t rows) const noexcept;  // drops rows from resident memory

 private:
  void Parse();
  std::string path_;
  std::optional<MappedFile> file_;
  std::span<const uint8_t> bytes_;
  std::map<std::string, std::string> metadata_;
  std::vector<NamedTensor> tensors_;
  std::unordered_map<std::string_view, size_t> index_;  // keys view tensors_
  std::vector<Buffer> copies_;                          // of tensors that the file does not align to their type
};

// The weights of a model directory: model.safetensors, or the shards that model.safetensors.index.json names; or one
// .safetensors file.
class ShardedSafetensors {
 public:
  explicit ShardedSafetensors(const std::string& path);

  const std::vector<SafetensorsFile>& files() const { return files_; }
  std::vector<NamedTensor> tensors() const;  // of all shards
  const Tensor* FindTensor(std::string_view name) const;  // as SafetensorsFile's
  const Tensor* FindStored(std::string_view name) const;
  void CheckIntact() const;
  void Evict(const Tensor& view, int64_t row, int64_t rows) const noexcept;
  void Evict(const Tensor& view) const noexcept { Evict(view, 0, view.rows()); }

 private:
  void OpenIndex(const std::string& directory, const std::string& index_path);
  std::vector<SafetensorsFile> files_;
};

struct TensorToWrite {
  std::string name;
  Tensor view;                                      // F32, F16, BF16, I32 or I64
  std::function<std::vector<uint8_t>()> make = {};  // gives the bytes when it is their turn, if view has no data
};

// Writes the tensors, wider types first so that each is aligned; whole or not at all, and safe over a mapped file.
// `progress` (may be empty) gets the bytes written so far and in all.
void WriteSafetensors(const std::string& path, std::vector<TensorToWrite> tensors,
                      const std::map<std::string, std::string>& metadata = {},
                      const std::function<void(uint64_t done, uint64_t total)>& progress = {});

}  // namespace cambium
