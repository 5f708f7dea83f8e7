#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>

// The three requests that hub.cc makes, through libcurl. `token` (may be empty) goes to the URL's own host only.

namespace cambium {

struct HttpHeaders {
  long status = 0;
  std::map<std::string, std::string> fields;  // names in lower case
  std::string Get(const std::string& name) const {
    const auto found = fields.find(name);
    return found == fields.end() ? "" : found->second;
  }
};
// HEAD; redirects within the host are followed, one that leaves it is the answer. kRuntime if nothing answers.
HttpHeaders HttpHead(const std::string& url, const std::string& token);

struct HttpText {
  long status = 0;
  std::string body, error;  // error: why there is no whole answer; empty otherwise
};
HttpText HttpGetText(const std::string& url, const std::string& token, size_t max_bytes);

struct HttpResult {
  long status = 0;
  std::string error;
};
// Appends to `descriptor` what follows byte `have` of the URL; starts the file again if the server cannot resume. Stops
// after `size` bytes in all. progress(done) counts from 0.
HttpResult HttpDownload(const std::string& url, const std::string& token, int descriptor, uint64_t have, uint64_t size,
                        const std::function<void(uint64_t)>& progress);

}  // namespace cambium
