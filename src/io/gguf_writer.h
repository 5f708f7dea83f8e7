#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf.h"

namespace cambium {

class AtomicFile;

// Collects metadata and tensors, then writes a GGUF version 3 file, whole or not at all. A key set again replaces its
// value and keeps its place.
class GgufWriter {
 public:
  void Set(std::string_view key, uint32_t value);
  void Set(std::string_view key, float value);
  void Set(std::string_view key, bool value);
  void Set(std::string_view key, std::string_view value);
  void Set(std::string_view key, const char* value) { Set(key, std::string_view(value)); }
  void Set(std::string_view key, std::span<const int32_t> values);
  void Set(std::string_view key, std::span<const float> values);
  void Set(std::string_view key, std::span<const std::string> values);
  void Set(std::string_view key, const GgufValue& value);  // as another file stores it

  // Produces rows [row, row + rows) of a tensor in its stored type; called in order, once for each row.
  using Fill = std::function<void(int64_t row, int64_t rows, uint8_t* dst)>;
  void AddTensor(std::string name, DType dtype, std::vector<int64_t> shape, Fill fill);
  void AddTensor(std::string name, Tensor view);  // must stay valid until Write

  // `progress` (may be empty) gets the bytes of tensors written so far and in all. With `part_bytes`, tensors of more
  // than that are written as a split model (GgufPartPath), of parts with at most so many bytes of tensors or one
  // tensor; returns the path that opens what was written.
  using Progress = std::function<void(uint64_t done, uint64_t total)>;
  std::string Write(const std::string& path, const Progress& progress = {}, uint64_t part_bytes = 0) const;

 private:
  struct Pair {
    std::string key;
    std::string bytes;  // type and payload as the file has them
  };
  struct Item {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
    Fill fill;
    int64_t rows, row_bytes;
  };
  void SetBytes(std::string_view key, std::string bytes);
  // A file of `items` behind `pairs`, not committed yet; `done` counts the bytes of tensors.
  void WriteFile(AtomicFile& out, const std::vector<Pair>& pairs, std::span<const Item> items,
                 const std::function<void(uint64_t bytes)>& done) const;
  std::vector<Pair> pairs_;
  std::vector<Item> tensors_;
};

}  // namespace cambium
