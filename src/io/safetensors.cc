#include "io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>

#include "base/check.h"
#include "io/atomic_file.h"
#include "io/json.h"

namespace cambium {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference reader's limit

struct ElementType {
  std::string_view name;
  int bits;
  std::optional<DType> dtype;
};
constexpr ElementType kTypes[] = {
    {"F32", 32, DType::kF32},
    {"F16", 16, DType::kF16},
    {"BF16", 16, DType::kBF16},
    {"I32", 32, DType::kI32},
    {"I64", 64, DType::kI64},
    {"F64", 64, {}},
    {"I16", 16, {}},
    {"I8", 8, {}},
    {"U8", 8, {}},
    {"U16", 16, {}},
    {"U32", 32, {}},
    {"U64", 64, {}},
    {"BOOL", 8, {}},
    {"F8_E4M3", 8, {}},
    {"F8_E5M2", 8, {}},
    {"F8_E8M0", 8, {}},
    {"F4", 4, {}},
    {"F6_E2M3", 6, {}},
    {"F6_E3M2", 6, {}},
    {"C64", 64, {}},
};

std::optional<uint64_t> Unsigned(const json& value) {
  if (!value.is_number_unsigned()) return {};
  return value.get<uint64_t>();
}

// The entry of one tensor; offset is relative to the data.
NamedTensor ReadEntry(const std::string& where, const std::string& name, const json& entry) {
  if (!entry.is_object()) Fail(ErrorCode::kData, where, ": is not an object");
  for (const auto& [field, value] : entry.items()) {
    if (field != "dtype" && field != "shape" && field != "data_offsets") {
      Fail(ErrorCode::kData, where, ": unknown field ", field);
    }
  }
  if (entry.size() != 3) Fail(ErrorCode::kData, where, ": needs dtype, shape and data_offsets");
  const json &dtype = entry["dtype"], &shape = entry["shape"], &offsets = entry["data_offsets"];
  const auto* type = dtype.is_string() ? std::find_if(std::begin(kTypes), std::end(kTypes),
                                                      [&](const ElementType& t) { return t.name == dtype; })
                                       : std::end(kTypes);
  if (type == std::end(kTypes)) Fail(ErrorCode::kData, where, ": dtype ", dtype.dump(), " is unknown");

  NamedTensor tensor;
  tensor.name = name;
  tensor.type = type->name;
  if (!shape.is_array()) Fail(ErrorCode::kData, where, ": shape is not an array");
  uint64_t elements = 1;
  for (const json& extent : shape) {
    const auto value = Unsigned(extent);
    if (!value || *value > INT64_MAX) Fail(ErrorCode::kData, where, ": shape has ", extent.dump());
    elements = CheckedMul(elements, *value, where + ": shape");
    tensor.shape.push_back(static_cast<int64_t>(*value));
  }
  if (tensor.shape.empty()) tensor.shape = {1};
  const uint64_t bits = CheckedMul(elements, static_cast<uint64_t>(type->bits), where + ": shape");
  if (bits % 8 != 0) Fail(ErrorCode::kData, where, ": ", elements, " values of ", type->name, " are no whole bytes");

  const auto begin = offsets.is_array() && offsets.size() == 2 ? Unsigned(offsets[0]) : std::nullopt;
  const auto end = begin ? Unsigned(offsets[1]) : std::nullopt;
  if (!begin || !end || *begin > *end)
    Fail(ErrorCode::kData, where, ": data_offsets ", offsets.dump(), " are no range");
  if (*end - *begin != bits / 8) {
    Fail(ErrorCode::kData, where, ": data_offsets hold ", *end - *begin, " bytes, but shape ", shape.dump(), " of ",
         type->name, " takes ", bits / 8);
  }
  tensor.offset = *begin;
  tensor.bytes = bits / 8;
  if (type->dtype && elements > 0 && tensor.shape.size() <= Tensor::kMaxRank) {
    tensor.view.dtype = *type->dtype;
    tensor.view.rank = static_cast<int>(tensor.shape.size());
    std::copy(tensor.shape.begin(), tensor.shape.end(), tensor.view.shape.begin());
  }
  return tensor;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path), file_(path), bytes_(file_->bytes()) {
  Parse();
}

SafetensorsFile::SafetensorsFile(std::string name, std::span<const uint8_t> bytes)
    : path_(std::move(name)), bytes_(bytes) {
  Parse();
}

void SafetensorsFile::Parse() {
  uint64_t header_bytes;
  if (bytes_.size() < sizeof header_bytes) {
    Fail(ErrorCode::kData, path_, ": not a safetensors file (", bytes_.size(), " bytes)");
  }
  std::memcpy(&header_bytes, bytes_.data(), sizeof header_bytes);
  const uint64_t most = std::min<uint64_t>(bytes_.size() - sizeof header_bytes, kMaxHeaderBytes);
  if (header_bytes > most) Fail(ErrorCode::kData, path_, ": header length ", header_bytes, " exceeds ", most);
  const std::string_view header(reinterpret_cast<const char*>(bytes_.data()) + sizeof header_bytes, header_bytes);
  if (header.empty() || header[0] != '{') Fail(ErrorCode::kData, path_, ": header does not start with {");
  const json parsed = ParseJson(header, path_ + ": header", {kMaxHeaderBytes, 8});

  for (const auto& [name, entry] : parsed.items()) {
    const std::string where = path_ + ": tensor " + name;
    if (name != "__metadata__") {
      tensors_.push_back(ReadEntry(where, name, entry));
      continue;
    }
    if (!entry.is_object()) Fail(ErrorCode::kData, path_, ": __metadata__ is not an object");
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) Fail(ErrorCode::kData, path_, ": __metadata__ ", key, " is not a string");
      metadata_.emplace(key, value.get<std::string>());
    }
  }

  std::sort(tensors_.begin(), tensors_.end(), [](const NamedTensor& a, const NamedTensor& b) {
    return std::tie(a.offset, a.bytes, a.name) < std::tie(b.offset, b.bytes, b.name);
  });
  const uint64_t data = sizeof header_bytes + header_bytes, room = bytes_.size() - data;
  uint64_t end = 0;
  for (NamedTensor& tensor : tensors_) {
    if (tensor.offset < end) Fail(ErrorCode::kData, path_, ": tensor ", tensor.name, ": overlaps another");
    if (tensor.offset > end) {
      Fail(ErrorCode::kData, path_, ": tensor ", tensor.name, ": a hole of ", tensor.offset - end, " bytes before it");
    }
    if (tensor.bytes > room - end) {
      Fail(ErrorCode::kData, path_, ": tensor ", tensor.name, ": ends at ", end + tensor.bytes, " of ", room,
           " bytes of data");
    }
    end += tensor.bytes;
  }
  if (end != room) Fail(ErrorCode::kData, path_, ": ", room - end, " bytes after the last tensor");

  for (size_t i = 0; i < tensors_.size(); ++i) {
    NamedTensor& tensor = tensors_[i];
    index_.emplace(tensor.name, i);
    tensor.offset += data;
    if (tensor.view.rank == 0) continue;
    const uint8_t* at = bytes_.data() + tensor.offset;
    if (reinterpret_cast<uintptr_t>(at) % static_cast<uintptr_t>(Info(tensor.view.dtype).bytes) != 0) {
      copies_.emplace_back(tensor.bytes);
      std::memcpy(copies_.back().data(), at, tensor.bytes);
      at = copies_.back().as<uint8_t>();
    }
    tensor.view.data = const_cast<uint8_t*>(at);
  }
  CheckIntact();
}

const Tensor* SafetensorsFile::FindStored(std::string_view name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) return nullptr;
  const NamedTensor& tensor = tensors_[found->second];
  if (tensor.view.rank == 0) {
    if (tensor.bytes == 0) Fail(ErrorCode::kData, path_, ": tensor ", name, ": has an extent of 0, and holds no values");
    Fail(ErrorCode::kData, path_, ": tensor ", name, ": type ", tensor.type, " of rank ", tensor.shape.size(),
         " is not supported");
  }
  return &tensor.view;
}

const Tensor* SafetensorsFile::FindTensor(std::string_view name) const {
  const Tensor* const stored = FindStored(name);
  if (stored == nullptr || (stored->dtype != DType::kI32 && stored->dtype != DType::kI64)) return stored;
  Fail(ErrorCode::kData, path_, ": tensor ", name, ": type ", Info(stored->dtype).name,
       ", but weights are no integers");
}

void SafetensorsFile::CheckIntact() const {
  if (file_) file_->CheckIntact();
}

void SafetensorsFile::Evict(const Tensor& view, int64_t row, int64_t rows) const noexcept {
  if (!file_ || view.size() == 0) return;
  const int64_t row_bytes = view.row_bytes();
  file_->Evict(view.as<uint8_t>() + row * row_bytes, static_cast<uint64_t>(rows * row_bytes));
}

ShardedSafetensors::ShardedSafetensors(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    files_.emplace_back(path);
    return;
  }
  const std::string single = path + "/model.safetensors", index = single + ".index.json";
  if (fs::exists(single, ignored)) {
    files_.emplace_back(single);
  } else if (fs::exists(index, ignored)) {
    OpenIndex(path, index);
  } else {
    Fail(ErrorCode::kData, path, ": holds neither model.safetensors nor model.safetensors.index.json");
  }
}

void ShardedSafetensors::OpenIndex(const std::string& directory, const std::string& index_path) {
  const json index = ParseJson(ReadTextFile(index_path), index_path);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object()) Fail(ErrorCode::kData, index_path, ": weight_map is no object");
  std::map<std::string, std::vector<std::string>> shards;  // file name -> tensors
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string()) Fail(ErrorCode::kData, index_path, ": weight_map ", tensor, ": ", shard.dump());
    const auto file = shard.get<std::string>();
    // A plain name in this directory, so that an index cannot make us open any other file.
    const bool plain = file.find('/') == std::string::npos && file.find('\0') == std::string::npos;
    if (!plain || !file.ends_with(".safetensors") || file.starts_with(".")) {
      Fail(ErrorCode::kData, index_path, ": weight_map ", tensor, ": ", shard.dump(), " is not a shard's file name");
    }
    shards[file].push_back(tensor);
  }
  std::error_code ignored;
  for (const auto& [file, names] : shards) {
    const std::string path = directory + "/" + file;
    if (!std::filesystem::is_regular_file(path, ignored)) {
      Fail(ErrorCode::kData, index_path, ": shard ", file, " is missing");
    }
  }
  for (const auto& [file, names] : shards) {
    const SafetensorsFile& shard = files_.emplace_back(directory + "/" + file);
    const std::set<std::string_view> listed(names.begin(), names.end());
    for (const std::string& name : names) {
      const bool found = std::any_of(shard.tensors().begin(), shard.tensors().end(),
                                     [&](const NamedTensor& t) { return t.name == name; });
      if (!found) Fail(ErrorCode::kData, index_path, ": tensor ", name, " is not in ", file);
    }
    for (const NamedTensor& tensor : shard.tensors()) {
      if (!listed.contains(tensor.name)) {
        Fail(ErrorCode::kData, index_path, ": tensor ", tensor.name, " of ", file, " is not in weight_map");
      }
    }
  }
}

std::vector<NamedTensor> ShardedSafetensors::tensors() const {
  std::vector<NamedTensor> all;
  for (const SafetensorsFile& file : files_) all.insert(all.end(), file.tensors().begin(), file.tensors().end());
  return all;
}

const Tensor* ShardedSafetensors::FindTensor(std::string_view name) const {
  for (const SafetensorsFile& file : files_) {
    if (const Tensor* tensor = file.FindTensor(name)) return tensor;
  }
  return nullptr;
}

const Tensor* ShardedSafetensors::FindStored(std::string_view name) const {
  for (const SafetensorsFile& file : files_) {
    if (const Tensor* tensor = file.FindStored(name)) return tensor;
  }
  return nullptr;
}

void ShardedSafetensors::CheckIntact() const {
  for (const SafetensorsFile& file : files_) file.CheckIntact();
}

void ShardedSafetensors::Evict(const Tensor& view, int64_t row, int64_t rows) const noexcept {
  for (const SafetensorsFile& file : files_) file.Evict(view, row, rows);  // only the owner's range matches
}

void WriteSafetensors(const std::string& path, std::vector<TensorToWrite> tensors,
                      const std::map<std::string, std::string>& metadata,
                      const std::function<void(uint64_t done, uint64_t total)>& progress) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    return Info(a.view.dtype).bytes > Info(b.view.dtype).bytes;
  });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const auto& [name, view, make] : tensors) {
    Check(!IsQuantized(view.dtype), "safetensors has no block-quantised types");
    Check(name != "__metadata__" && !header.contains(name), "tensor names are unique");
    const std::vector<int64_t> shape(view.shape.begin(), view.shape.begin() + view.rank);
    header[name] = {
        {"dtype", Info(view.dtype).name}, {"shape", shape}, {"data_offsets", {offset, offset + view.bytes()}}};
    offset += view.bytes();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();

  AtomicFile out(path);
  out.Write({reinterpret_cast<const uint8_t*>(&length), sizeof length});
  out.Write(text);
  for (const auto& [name, view, make] : tensors) {
    if (make) {
      const std::vector<uint8_t> bytes = make();
      Check(static_cast<int64_t>(bytes.size()) == view.bytes(), "a made tensor has the size of its view");
      out.Write(bytes);
    } else {
      out.Write({view.as<uint8_t>(), static_cast<size_t>(view.bytes())});
    }
    if (progress) progress(out.written() - sizeof length - text.size(), static_cast<uint64_t>(offset));
  }
  out.Commit();
}

}  // namespace cambium
