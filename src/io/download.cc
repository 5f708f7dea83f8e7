#include "io/download.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "cambium/error.h"
#include "io/http.h"
#include "io/sha256.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;

constexpr int kAttempts = 4;

struct Closer {
  int descriptor;
  ~Closer() { close(descriptor); }
};

uint64_t SizeOf(int descriptor) { return static_cast<uint64_t>(lseek(descriptor, 0, SEEK_END)); }

void CheckSpace(const Download& d, const fs::path& folder, uint64_t missing) {
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  if (error || space.available >= missing) return;
  Fail(ErrorCode::kResource, d.what, ": needs ", missing, " bytes of disk, ", space.available, " are free");
}

// Appends to the file until it has all bytes; gives how many it has.
uint64_t Fill(const Download& d, int out, uint64_t have) {
  for (int attempt = 1; have < d.size; ++attempt) {
    const HttpResult result = HttpDownload(d.url, d.token, out, have, d.size, [&](uint64_t done) {
      if (d.progress) d.progress(done);
    });
    have = SizeOf(out);
    if (result.error.empty() && result.status >= 400 && result.status < 500) FailStatus(d.what, result.status);
    if (have >= d.size) break;
    if (attempt == kAttempts) {
      Fail(ErrorCode::kRuntime, d.what, ": stopped at ", have, " of ", d.size,
           " bytes: ", result.error.empty() ? "the server answered " + std::to_string(result.status) : result.error);
    }
    usleep(static_cast<useconds_t>(d.retry_wait_ms) * 1000u * static_cast<unsigned>(attempt));
  }
  return have;
}

}  // namespace

void FailStatus(const std::string& what, long status) {
  const char* hint = status == 401 || status == 403 ? " (private or gated: set HF_TOKEN)"
                     : status == 404                ? " (not found)"
                                                    : "";
  Fail(ErrorCode::kRuntime, what, ": the hub answered ", status, hint);
}

void FetchFile(const Download& d, const std::string& path) {
  const std::string part = path + ".incomplete";
  const int out = open(part.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (out < 0) Fail(ErrorCode::kResource, part, ": cannot create: ", std::strerror(errno));
  const Closer closer{out};
  if (flock(out, LOCK_EX | LOCK_NB) != 0) Fail(ErrorCode::kRuntime, d.what, ": another process is downloading it");
  uint64_t have = SizeOf(out);
  if (have > d.size && ftruncate(out, 0) == 0) have = 0;
  CheckSpace(d, fs::path(path).parent_path(), d.size - have);
  have = Fill(d, out, have);
  if (fsync(out) != 0) Fail(ErrorCode::kResource, part, ": syncing failed: ", std::strerror(errno));
  std::error_code error;
  const std::string digest = !d.sha256.empty() && have == d.size ? FileSha256(part) : d.sha256;
  if (have != d.size || digest != d.sha256) {
    fs::remove(part, error);
    if (have != d.size) Fail(ErrorCode::kData, d.what, ": has ", have, " bytes, not ", d.size);
    Fail(ErrorCode::kData, d.what, ": SHA-256 is ", digest, ", not ", d.sha256, "; the download was discarded");
  }
  fs::rename(part, path, error);
  if (error) Fail(ErrorCode::kResource, path, ": cannot rename: ", error.message());
}

}  // namespace cambium
