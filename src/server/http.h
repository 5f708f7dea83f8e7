#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// What the transport and those who answer know of each other: a request, a response, and the reply that is under way.
namespace cambium::server {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;
  std::string path;     // as it was sent, up to a "?": nothing is decoded
  std::string query;    // behind it
  int minor = 1;        // HTTP/1.minor
  HttpHeaders headers;  // names in lower case
  std::string body;
  std::string id;  // X-Request-Id: the caller's, or a new one

  // The first header of that name (lower case); null where there is none.
  const std::string* Header(std::string_view name) const;
  bool HasToken(std::string_view name, std::string_view token) const;  // in a comma-separated list, without case
};

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string type = "application/json";
  HttpHeaders headers = {};  // more of them; values without line ends
  bool close = false;        // the connection ends behind it
};

// The answer to one request. Its members may be called from any thread; once the client has left they do nothing.
class Reply {
 public:
  virtual ~Reply() = default;

  // The whole answer.
  virtual void Send(HttpResponse response) = 0;

  // Or one in pieces: Begin, Write..., End. What the client does not take in time is bounded: it is cut off then.
  virtual void Begin(HttpResponse head) = 0;
  virtual void Write(std::string_view bytes) = 0;
  virtual void End() = 0;
  // Sends `bytes` whenever nothing was written for so long; 0: never.
  virtual void Ping(double seconds, std::string bytes) = 0;

  // Calls `leave` once if the client goes, or is cut off, before it has the whole answer. At once where it has gone.
  virtual void WhenGone(std::function<void()> leave) = 0;
};

std::string_view ReasonPhrase(int status);

// "chunked" == "Chunked": ASCII without case.
bool EqualNoCase(std::string_view a, std::string_view b);

}  // namespace cambium::server
