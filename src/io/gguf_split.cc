// Split models, as llama.cpp's gguf-split writes them: split.no, split.count and split.tensors.count (of the whole) in
// each part, all other metadata in the first.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "io/gguf.h"

namespace cambium {
namespace {

constexpr uint64_t kMostParts = 99999;
constexpr std::string_view kEnding = ".gguf";

bool IsSplitKey(std::string_view key) { return key.starts_with("split."); }

}  // namespace

std::string GgufPartPath(const std::string& path, uint64_t number, uint64_t count) {
  const std::string stem = path.ends_with(kEnding) ? path.substr(0, path.size() - kEnding.size()) : path;
  return fmt::format("{}-{:05}-of-{:05}{}", stem, number + 1, count, kEnding);
}

bool IsLaterGgufPart(std::string_view name) {
  const std::string first = GgufPartPath("", 0, 1);  // -00001-of-00001.gguf
  if (name.size() <= first.size()) return false;
  const std::string_view ending = name.substr(name.size() - first.size());
  for (size_t i = 0; i < first.size(); ++i) {
    const bool digit = std::isdigit(static_cast<unsigned char>(first[i])) != 0;
    if (digit ? std::isdigit(static_cast<unsigned char>(ending[i])) == 0 : ending[i] != first[i]) return false;
  }
  return ending.substr(0, 6) != first.substr(0, 6);
}

void GgufFile::Join(uint64_t count) {
  const std::string opened = path_;
  const uint64_t number = U64("split.no");
  if (count > kMostParts || number >= count) {
    Fail(ErrorCode::kData, opened, ": split.no is ", number, ", split.count ", count);
  }
  const std::string ending = GgufPartPath("", number, count);
  if (!opened.ends_with(ending)) {
    Fail(ErrorCode::kData, opened, ": split.count is ", count, ": a part of a split model, whose name must end with ",
         ending, " for the others to be found");
  }
  const std::string whole = opened.substr(0, opened.size() - ending.size());
  for (uint64_t i = 0; i < count; ++i) {
    const std::string part = GgufPartPath(whole, i, count);
    std::error_code ignored;
    if (!std::filesystem::exists(part, ignored)) {
      Fail(ErrorCode::kData, opened, ": part ", i + 1, " of ", count, " is missing: ", part);
    }
  }
  if (number != 0) *this = GgufFile(GgufPartPath(whole, 0, count), OnePart());
  if (U64("split.no") != 0 || U64("split.count") != count) {
    Fail(ErrorCode::kData, path_, ": split.no is ", U64("split.no"), " of ", U64("split.count"), ", expected 0 of ",
         count);
  }
  rest_.reserve(count - 1);
  for (uint64_t i = 1; i < count; ++i) AddPart(GgufFile(GgufPartPath(whole, i, count), OnePart()), i, count);
  if (const uint64_t all = U64("split.tensors.count", tensors_.size()); all != tensors_.size()) {
    Fail(ErrorCode::kData, path_, ": split.tensors.count is ", all, ", the ", count, " parts hold ", tensors_.size());
  }
  std::erase_if(metadata_, [](const auto& pair) { return IsSplitKey(pair.first); });
  IndexNames();
}

void GgufFile::AddPart(GgufFile part, uint64_t number, uint64_t count) {
  if (part.U64("split.no") != number || part.U64("split.count") != count) {
    Fail(ErrorCode::kData, part.path_, ": split.no is ", part.U64("split.no"), " of ", part.U64("split.count"),
         ", expected ", number, " of ", count);
  }
  for (const auto& [key, value] : part.metadata_) {
    if (key == "split.no" || key == "general.alignment") continue;
    const GgufValue* const first = Find(key);
    const bool same = first != nullptr && first->type == value.type && first->element == value.element &&
                      std::ranges::equal(first->bytes, value.bytes);
    if (!same) Fail(ErrorCode::kData, part.path_, ": metadata key ", key, " differs from that of ", path_);
  }
  tensors_.insert(tensors_.end(), part.tensors_.begin(), part.tensors_.end());
  rest_.push_back(std::move(part));
}

// Anew, as strings have moved.
void GgufFile::IndexNames() {
  tensor_index_.clear();
  key_index_.clear();
  for (size_t i = 0; i < metadata_.size(); ++i) key_index_.emplace(metadata_[i].first, i);
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (tensor_index_.emplace(tensors_[i].name, i).second) continue;
    Fail(ErrorCode::kData, path_, ": tensor ", tensors_[i].name, " is in two parts");
  }
}

uint64_t GgufFile::size() const {
  uint64_t size = bytes_.size();
  for (const GgufFile& part : rest_) size += part.size();
  return size;
}

void GgufFile::CheckIntact() const {
  if (file_) file_->CheckIntact();
  for (const GgufFile& part : rest_) part.CheckIntact();
}

void GgufFile::Evict(const Tensor& view, int64_t row, int64_t rows) const noexcept {
  const int64_t row_bytes = view.row_bytes();
  if (file_) file_->Evict(view.as<uint8_t>() + row * row_bytes, static_cast<uint64_t>(rows * row_bytes));
  for (const GgufFile& part : rest_) part.Evict(view, row, rows);  // only the owner's range matches
}

}  // namespace cambium
