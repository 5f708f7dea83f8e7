#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace cambium {

// One file of a server, and what it must be.
struct Download {
  std::string url, token;  // token: as http.h takes it
  std::string what;        // its name in messages
  uint64_t size = 0;
  std::string sha256;  // in hex; empty: not known
  int retry_wait_ms = 1000;
  std::function<void(uint64_t done)> progress = {};
};

// Fills `path`, resuming what an earlier try left in PATH.incomplete; size and digest are checked. kRuntime where the
// server does not give it, kData where it is another, kResource where the disk does not suffice.
void FetchFile(const Download& download, const std::string& path);

// kRuntime with what the server's status means.
[[noreturn]] void FailStatus(const std::string& what, long status);

}  // namespace cambium
