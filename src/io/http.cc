#include "io/http.h"

#include <curl/curl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <memory>

#include "base/check.h"

namespace cambium {
namespace {

class Request {
 public:
  Request(const std::string& url, const std::string& token) {
    static const bool ready = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
    curl_.reset(curl_easy_init());
    if (!ready || !curl_) Fail(ErrorCode::kRuntime, "libcurl cannot start");
    Set(CURLOPT_URL, url.c_str());
    Set(CURLOPT_PROTOCOLS_STR, "http,https");
    Set(CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    Set(CURLOPT_MAXREDIRS, 10L);
    Set(CURLOPT_NOSIGNAL, 1L);
    Set(CURLOPT_CONNECTTIMEOUT, 20L);
    Set(CURLOPT_LOW_SPEED_LIMIT, 1L);
    Set(CURLOPT_LOW_SPEED_TIME, 60L);
    Set(CURLOPT_ERRORBUFFER, message_);
    Set(CURLOPT_USERAGENT, "cambium");
    Set(CURLOPT_HEADERFUNCTION, OnHeader);
    Set(CURLOPT_HEADERDATA, this);
    if (!token.empty()) {
      Set(CURLOPT_HTTPAUTH, static_cast<long>(CURLAUTH_BEARER));
      Set(CURLOPT_XOAUTH2_BEARER, token.c_str());  // libcurl does not pass it on to another host
    }
  }

  template <class T>
  void Set(CURLoption option, T value) {
    Check(curl_easy_setopt(curl_.get(), option, value) == CURLE_OK, "libcurl knows the option");
  }

  // Empty if the whole answer came.
  std::string Perform() {
    const CURLcode code = curl_easy_perform(curl_.get());
    if (code == CURLE_OK) return "";
    return message_[0] != '\0' ? message_ : curl_easy_strerror(code);
  }

  long status() const {
    long status = 0;
    curl_easy_getinfo(curl_.get(), CURLINFO_RESPONSE_CODE, &status);
    return status;
  }
  std::map<std::string, std::string>& headers() { return headers_; }

 private:
  static size_t OnHeader(char* data, size_t size, size_t count, void* self) {
    const std::string line(data, size * count);
    auto& headers = static_cast<Request*>(self)->headers_;
    const size_t colon = line.find(':');
    if (line.starts_with("HTTP/")) {
      headers.clear();
    } else if (colon != std::string::npos && headers.size() < 200) {
      std::string name = line.substr(0, colon);
      std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
      const size_t begin = line.find_first_not_of(" \t", colon + 1), end = line.find_last_not_of(" \t\r\n");
      headers[name] = begin == std::string::npos || end < begin ? "" : line.substr(begin, end - begin + 1);
    }
    return size * count;
  }

  struct Cleanup {
    void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
  };
  std::unique_ptr<CURL, Cleanup> curl_;
  char message_[CURL_ERROR_SIZE] = {};
  std::map<std::string, std::string> headers_;
};

struct TextSink {
  std::string* body;
  size_t max_bytes;
};
size_t AppendText(char* data, size_t size, size_t count, void* context) {
  auto& sink = *static_cast<TextSink*>(context);
  if (size * count > sink.max_bytes - sink.body->size()) return 0;
  sink.body->append(data, size * count);
  return size * count;
}

struct FileSink {
  Request* request;
  int descriptor;
  uint64_t have, size;
  bool started;
  const std::function<void(uint64_t)>* progress;
};
size_t AppendFile(char* data, size_t size, size_t count, void* context) {
  auto& sink = *static_cast<FileSink*>(context);
  const size_t bytes = size * count;
  const long status = sink.request->status();
  if (status != 200 && status != 206) return bytes;  // an error page is not the file
  if (!sink.started) {
    sink.started = true;
    const std::string from = "bytes " + std::to_string(sink.have) + "-";
    if (status == 206 && !sink.request->headers()["content-range"].starts_with(from)) return 0;
    if (status == 200 && sink.have > 0) sink.have = 0;  // the server does not resume
    if (ftruncate(sink.descriptor, static_cast<off_t>(sink.have)) != 0) return 0;
    if (lseek(sink.descriptor, static_cast<off_t>(sink.have), SEEK_SET) < 0) return 0;
  }
  if (bytes > sink.size - sink.have) return 0;
  for (size_t done = 0; done < bytes;) {
    const ssize_t wrote = write(sink.descriptor, data + done, bytes - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return done;
    done += static_cast<size_t>(wrote);
    sink.have += static_cast<uint64_t>(wrote);
  }
  (*sink.progress)(sink.have);
  return bytes;
}

// scheme://host:port of a URL.
std::string Origin(const std::string& url) { return url.substr(0, url.find('/', url.find("://") + 3)); }

}  // namespace

HttpHeaders HttpHead(const std::string& url, const std::string& token) {
  std::string at = url;
  for (int hop = 0; hop < 10; ++hop) {
    Request request(at, token);
    request.Set(CURLOPT_NOBODY, 1L);
    if (const std::string error = request.Perform(); !error.empty()) Fail(ErrorCode::kRuntime, url, ": ", error);
    HttpHeaders answer{request.status(), std::move(request.headers())};
    std::string target = answer.Get("location");
    if (target.starts_with("/") && !target.starts_with("//")) target = Origin(at) + target;
    // Files kept elsewhere are described by the hub itself; only renamed repositories lead on.
    const bool described = !answer.Get("x-linked-etag").empty();
    if (answer.status / 100 != 3 || described || target.empty() || Origin(target) != Origin(at)) return answer;
    at = target;
  }
  Fail(ErrorCode::kRuntime, url, ": too many redirects");
}

HttpText HttpGetText(const std::string& url, const std::string& token, size_t max_bytes) {
  Request request(url, token);
  HttpText text;
  TextSink sink{&text.body, max_bytes};
  request.Set(CURLOPT_FOLLOWLOCATION, 1L);
  request.Set(CURLOPT_WRITEFUNCTION, AppendText);
  request.Set(CURLOPT_WRITEDATA, &sink);
  text.error = request.Perform();
  text.status = request.status();
  return text;
}

HttpResult HttpDownload(const std::string& url, const std::string& token, int descriptor, uint64_t have, uint64_t size,
                        const std::function<void(uint64_t)>& progress) {
  Request request(url, token);
  FileSink sink{&request, descriptor, have, size, false, &progress};
  request.Set(CURLOPT_FOLLOWLOCATION, 1L);
  request.Set(CURLOPT_WRITEFUNCTION, AppendFile);
  request.Set(CURLOPT_WRITEDATA, &sink);
  const std::string range = std::to_string(have) + "-";
  if (have > 0) request.Set(CURLOPT_RANGE, range.c_str());
  std::string error = request.Perform();
  return {request.status(), std::move(error)};
}

}  // namespace cambium
