#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "server/http.h"

namespace cambium::server {

struct HttpLimits {
  size_t target = size_t{8} << 10;   // bytes of the request's target
  size_t head = size_t{32} << 10;    // of the request line and all headers
  size_t fields = 100;               // headers
  size_t body = size_t{32} << 20;    // after the chunks are taken apart
  size_t chunk_line = 256;           // a chunk's length and extensions
  size_t trailer = size_t{8} << 10;  // headers behind a chunked body
};

// Reads one request of HTTP/1.0 or 1.1 as RFC 9112 writes it, from bytes that come in any pieces, and refuses what the
// RFC lets a server repair: bare line feeds, folded headers, two lengths, a length beside chunks, a Transfer-Encoding
// that is not exactly "chunked", chunks in HTTP/1.0. Where two readers may see two things, this one sees an error:
// request smuggling lives off such places. (Boost.Beast 1.81 waits for more at a bare line feed, ignores other
// encodings, and unfolds headers.)
class HttpParser {
 public:
  explicit HttpParser(HttpLimits limits = {}) : limits_(limits) {}

  // Takes what belongs to this request, up to the end of its head where that is in `bytes`, and returns how much that
  // was. Throws HttpError.
  size_t Feed(std::string_view bytes);

  bool started() const { return started_; }
  bool head_done() const { return state_ > State::kHead; }
  bool done() const { return state_ == State::kDone; }
  bool has_body() const { return chunked_ || length_ > 0; }
  HttpRequest& request() { return request_; }

 private:
  enum class State { kHead, kLength, kChunkLine, kChunk, kChunkEnd, kTrailer, kDone };
  size_t FeedHead(std::string_view bytes);
  size_t FeedLine(std::string_view bytes, size_t limit);  // into line_; complete_ where its end was there
  size_t FeedData(std::string_view bytes);
  void ReadHead();
  void ReadRequestLine(std::string_view line);
  void ReadField(std::string_view line);
  void ReadFraming();
  void ReadChunkLine();

  HttpLimits limits_;
  State state_ = State::kHead;
  HttpRequest request_;
  std::string line_;  // the head, or a line, as far as it came
  bool started_ = false, complete_ = false, chunked_ = false;
  uint64_t length_ = 0;  // bytes of the body, or of its chunk, that are still to come
  size_t trailer_ = 0;
};

// The request is not to be answered otherwise than by `status`, and nothing behind it can be understood.
struct HttpError {
  int status;
  std::string why;
};

}  // namespace cambium::server
