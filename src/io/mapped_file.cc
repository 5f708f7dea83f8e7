#include "io/mapped_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <utility>

#include "base/check.h"

namespace cambium {

// What the signal handler may look at. Slots are never freed, only reused, so the handler needs no lock.
struct MappedFile::Slot {
  std::atomic<uintptr_t> begin{0}, end{0};  // [begin, end) in whole pages; begin == 0: unused
  std::atomic<bool> damaged{false};
  Slot* next = nullptr;
};

namespace {

struct sigaction previous_action;

uintptr_t PageSize() {
  static const uintptr_t size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  return size;
}

std::mutex slot_mutex;
std::atomic<void*> first_slot{nullptr};
}  // namespace

// Puts zero pages from the fault to the end of its mapping, for a truncated file has lost all of that.
void MappedFile::HandleSigbus(int signal, void* info, void* context) {
  const int saved_errno = errno;
  const auto address = reinterpret_cast<uintptr_t>(static_cast<siginfo_t*>(info)->si_addr);
  for (auto* slot = static_cast<Slot*>(first_slot.load(std::memory_order_acquire)); slot; slot = slot->next) {
    const uintptr_t begin = slot->begin.load(std::memory_order_acquire), end = slot->end.load();
    if (begin == 0 || address < begin || address >= end) continue;
    const uintptr_t page = address & ~(PageSize() - 1);
    void* zeros = mmap(reinterpret_cast<void*>(page), end - page, PROT_READ,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (zeros == MAP_FAILED) break;
    slot->damaged.store(true, std::memory_order_release);
    errno = saved_errno;
    return;
  }
  // Not ours: whoever was there before us decides; by default the process dies as it would have.
  if (previous_action.sa_flags & SA_SIGINFO) {
    previous_action.sa_sigaction(signal, static_cast<siginfo_t*>(info), context);
  } else if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
    previous_action.sa_handler(signal);
  } else {
    sigaction(SIGBUS, &previous_action, nullptr);
  }
}

MappedFile::MappedFile(std::string path) : MappedFile() {
  path_ = std::move(path);
  descriptor_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) Fail(ErrorCode::kData, path_, ": cannot open: ", std::strerror(errno));
  struct stat status;
  const bool readable = fstat(descriptor_, &status) == 0;
  if (!readable || !S_ISREG(status.st_mode)) {
    Fail(ErrorCode::kData, path_, readable && S_ISDIR(status.st_mode) ? ": is a directory, expected a file" : ": is not a regular file");
  }
  size_ = static_cast<uint64_t>(status.st_size);
  if (size_ == 0) return;

  void* data = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor_, 0);
  if (data == MAP_FAILED) {
    Fail(ErrorCode::kResource, path_, ": cannot map ", size_, " bytes: ", std::strerror(errno));
  }
  data_ = static_cast<const uint8_t*>(data);

  std::lock_guard lock(slot_mutex);
  static const bool installed = [] {
    PageSize();
    struct sigaction action {};
    action.sa_sigaction = [](int signal, siginfo_t* info, void* context) { HandleSigbus(signal, info, context); };
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    return sigaction(SIGBUS, &action, &previous_action) == 0;
  }();
  Check(installed, "SIGBUS handler is installed");
  for (slot_ = static_cast<Slot*>(first_slot.load()); slot_ && slot_->begin.load() != 0;) slot_ = slot_->next;
  if (slot_ == nullptr) {
    slot_ = new Slot;
    slot_->next = static_cast<Slot*>(first_slot.load());
    first_slot.store(slot_, std::memory_order_release);
  }
  const auto begin = reinterpret_cast<uintptr_t>(data_);
  slot_->damaged.store(false);
  slot_->end.store((begin + size_ + PageSize() - 1) & ~(PageSize() - 1));
  slot_->begin.store(begin, std::memory_order_release);
}

MappedFile::~MappedFile() {
  if (slot_ != nullptr) slot_->begin.store(0, std::memory_order_release);
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
  if (descriptor_ >= 0) close(descriptor_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      slot_(std::exchange(other.slot_, nullptr)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(slot_, other.slot_);
  return *this;
}

void MappedFile::CheckIntact() const {
  struct stat status {};
  const bool shorter =
      descriptor_ >= 0 && (fstat(descriptor_, &status) != 0 || static_cast<uint64_t>(status.st_size) < size_);
  if (shorter) {
    Fail(ErrorCode::kData, path_, ": was truncated while in use, from ", size_, " to ", status.st_size, " bytes");
  }
  if (slot_ != nullptr && slot_->damaged.load(std::memory_order_acquire)) {
    Fail(ErrorCode::kData, path_, ": could not be read (it was truncated while in use, or the disk failed)");
  }
}

void MappedFile::Evict(const void* begin, uint64_t bytes) const noexcept {
  if (data_ == nullptr || begin == nullptr) return;
  const auto file = reinterpret_cast<uintptr_t>(data_), first = reinterpret_cast<uintptr_t>(begin);
  if (first < file || first - file > size_ || bytes > size_ - (first - file)) return;
  const uintptr_t from = (first + PageSize() - 1) & ~(PageSize() - 1);
  const bool to_the_end = first - file + bytes == size_;  // the last page holds nothing else
  const uintptr_t to = (first + bytes + (to_the_end ? PageSize() - 1 : 0)) & ~(PageSize() - 1);
  if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
}

}  // namespace cambium
