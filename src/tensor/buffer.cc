#include "tensor/buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace cambium {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kMinBlock = size_t{1} << 20;

// What the array takes whose memory is being made.
size_t ArrayBytes(const Tensor& array) {
  const DTypeInfo& info = Info(array.dtype);
  const auto extent = [&](int axis) { return axis + 1 < array.rank ? array.shape[static_cast<size_t>(axis)] : 1; };
  return CheckedBytes({extent(0), extent(1), extent(2), array.columns() / info.block, info.bytes});
}

size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  if (bytes > PTRDIFF_MAX / 2) Fail(ErrorCode::kResource, "out of memory: ", bytes, " bytes wanted");
  if (bytes >= kHugePage) {
    // One huge page of slack, so that the block can start on a huge page's boundary.
    const size_t mapped = RoundUp(bytes, kHugePage) + kHugePage;
    void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) Fail(ErrorCode::kResource, "out of memory: ", bytes, " bytes refused");
    const uintptr_t start = RoundUp(reinterpret_cast<uintptr_t>(base), kHugePage);
    data_ = reinterpret_cast<void*>(start);
    const size_t head = start - reinterpret_cast<uintptr_t>(base);
    const size_t used = RoundUp(bytes, kHugePage);
    if (head > 0) munmap(base, head);
    if (mapped - head - used > 0) munmap(reinterpret_cast<void*>(start + used), mapped - head - used);
    madvise(data_, used, MADV_HUGEPAGE);
  } else {
    data_ = std::aligned_alloc(kAlign, RoundUp(bytes, kAlign));
    if (data_ == nullptr) Fail(ErrorCode::kResource, "out of memory: ", bytes, " bytes refused");
    std::memset(data_, 0, bytes);
  }
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (bytes_ >= kHugePage) {
    munmap(data_, RoundUp(bytes_, kHugePage));
  } else {
    std::free(data_);
  }
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

OwnedTensor::OwnedTensor(DType dtype, std::initializer_list<int64_t> shape) : view(nullptr, dtype, shape) {
  buffer = Buffer(ArrayBytes(view));
  view.data = buffer.data();
}

Tensor Workspace::New(DType dtype, std::initializer_list<int64_t> shape) {
  Tensor tensor(nullptr, dtype, shape);
  tensor.data = Allocate(ArrayBytes(tensor));
  return tensor;
}

void* Workspace::Allocate(size_t bytes) {
  bytes = RoundUp(std::max<size_t>(bytes, 1), kAlign);
  while (current_ < blocks_.size() && offset_ + bytes > blocks_[current_].bytes()) {
    ++current_;
    offset_ = 0;
  }
  if (current_ == blocks_.size()) {
    const size_t last = blocks_.empty() ? 0 : blocks_.back().bytes();
    // Whole huge pages: what the system backs, the block can use.
    const size_t size = std::max({bytes, kMinBlock, last});
    blocks_.emplace_back(size < kHugePage ? size : RoundUp(size, kHugePage));
    offset_ = 0;
  }
  void* result = blocks_[current_].as<char>() + offset_;
  offset_ += bytes;
  size_t used = offset_;
  for (size_t i = 0; i < current_; ++i) used += blocks_[i].bytes();
  peak_ = std::max(peak_, used);
  return result;
}

void Workspace::Release(Mark mark) {
  current_ = mark.block;
  offset_ = mark.offset;
}

void Workspace::Reset() {
  if (blocks_.size() > 1) {
    size_t total = 0;
    for (const Buffer& block : blocks_) total += block.bytes();
    blocks_.clear();
    blocks_.emplace_back(total);
  }
  current_ = 0;
  offset_ = 0;
}

}  // namespace cambium
