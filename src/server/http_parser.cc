#include "server/http_parser.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace cambium::server {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// RFC 9110, section 5.6.2.
bool IsTokenCharacter(char c) {
  const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  return letter || IsDigit(c) || std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

bool IsToken(std::string_view text) { return !text.empty() && std::ranges::all_of(text, IsTokenCharacter); }

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

std::string_view Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

[[noreturn]] void Refuse(int status, std::string why) { throw HttpError{status, std::move(why)}; }

// Everything but CR, LF and the other controls; a tab is white space.
bool IsFieldCharacter(char c) { return c == '\t' || (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f); }

bool IsHostCharacter(char c) {
  return static_cast<unsigned char>(c) > 0x20 && static_cast<unsigned char>(c) < 0x7f &&
         std::string_view("/\\?#@,\"<>{}^`|").find(c) == std::string_view::npos;
}

}  // namespace

bool EqualNoCase(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, [](char x, char y) { return Lower(x) == Lower(y); });
}

const std::string* HttpRequest::Header(std::string_view name) const {
  const auto found = std::ranges::find_if(headers, [&](const auto& field) { return field.first == name; });
  return found == headers.end() ? nullptr : &found->second;
}

bool HttpRequest::HasToken(std::string_view name, std::string_view token) const {
  const std::string* const value = Header(name);
  if (value == nullptr) return false;
  std::string_view rest = *value;
  while (true) {
    const size_t comma = rest.find(',');
    if (EqualNoCase(Trimmed(rest.substr(0, comma)), token)) return true;
    if (comma == rest.npos) return false;
    rest.remove_prefix(comma + 1);
  }
}

std::string_view ReasonPhrase(int status) {
  struct Phrase {
    int status;
    std::string_view text;
  };
  static constexpr Phrase kPhrases[] = {{200, "OK"},
                                        {201, "Created"},
                                        {204, "No Content"},
                                        {304, "Not Modified"},
                                        {400, "Bad Request"},
                                        {401, "Unauthorized"},
                                        {403, "Forbidden"},
                                        {404, "Not Found"},
                                        {405, "Method Not Allowed"},
                                        {408, "Request Timeout"},
                                        {409, "Conflict"},
                                        {413, "Content Too Large"},
                                        {414, "URI Too Long"},
                                        {415, "Unsupported Media Type"},
                                        {417, "Expectation Failed"},
                                        {429, "Too Many Requests"},
                                        {431, "Request Header Fields Too Large"},
                                        {500, "Internal Server Error"},
                                        {501, "Not Implemented"},
                                        {503, "Service Unavailable"},
                                        {505, "HTTP Version Not Supported"},
                                        {507, "Insufficient Storage"}};
  const auto found = std::ranges::find(kPhrases, status, &Phrase::status);
  return found == std::end(kPhrases) ? "Status" : found->text;
}

size_t HttpParser::Feed(std::string_view bytes) {
  started_ = started_ || !bytes.empty();
  if (state_ == State::kHead) return FeedHead(bytes);
  size_t taken = 0;
  while (taken < bytes.size() && state_ != State::kDone) {
    const std::string_view rest = bytes.substr(taken);
    if (state_ == State::kLength || state_ == State::kChunk) {
      taken += FeedData(rest);
      continue;
    }
    taken += FeedLine(rest, state_ == State::kTrailer ? limits_.trailer - trailer_ : limits_.chunk_line);
    if (!complete_) continue;
    const bool empty = line_.empty();
    if (state_ == State::kChunkEnd) {
      if (!empty) Refuse(400, "a chunk is longer than it says");
      state_ = State::kChunkLine;
    } else if (state_ == State::kChunkLine) {
      ReadChunkLine();
    } else if (empty) {
      state_ = State::kDone;
    } else {
      trailer_ += line_.size() + 2;  // read, bounded, and of no use to anybody here
    }
    line_.clear();
  }
  return taken;
}

size_t HttpParser::FeedHead(std::string_view bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    const char c = bytes[i];
    const bool after_cr = !line_.empty() && line_.back() == '\r';
    if ((c == '\n') != after_cr) Refuse(400, "a line does not end with CR LF");
    line_ += c;
    if (line_.size() == 1 && c != '\r' && !IsTokenCharacter(c)) Refuse(400, "this is not HTTP");
    if (line_ == "\r\n") line_.clear();  // empty lines may come before a request
    if (line_.size() > limits_.head) {
      const bool in_target = line_.find('\r') == line_.npos;
      Refuse(in_target ? 414 : 431, in_target ? "the request line is too long" : "the headers are too long");
    }
    if (line_.ends_with("\r\n\r\n")) {
      ReadHead();
      line_.clear();
      return i + 1;
    }
  }
  return bytes.size();
}

size_t HttpParser::FeedLine(std::string_view bytes, size_t limit) {
  complete_ = false;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const bool after_cr = !line_.empty() && line_.back() == '\r';
    if ((bytes[i] == '\n') != after_cr) Refuse(400, "a line of a chunked body does not end with CR LF");
    line_ += bytes[i];
    if (after_cr) {
      line_.resize(line_.size() - 2);
      complete_ = true;
      return i + 1;
    }
    if (line_.size() > limit) Refuse(400, "a line of a chunked body is too long");
  }
  return bytes.size();
}

size_t HttpParser::FeedData(std::string_view bytes) {
  const size_t count = static_cast<size_t>(std::min<uint64_t>(length_, bytes.size()));
  request_.body.append(bytes.substr(0, count));
  length_ -= count;
  if (length_ == 0) state_ = state_ == State::kLength ? State::kDone : State::kChunkEnd;
  return count;
}

void HttpParser::ReadHead() {
  std::string_view rest(line_);
  rest.remove_suffix(2);
  size_t end = rest.find("\r\n");
  ReadRequestLine(rest.substr(0, end));
  for (rest.remove_prefix(end + 2); !rest.empty(); rest.remove_prefix(end + 2)) {
    end = rest.find("\r\n");
    if (request_.headers.size() == limits_.fields)
      Refuse(431, "more than " + std::to_string(limits_.fields) + " headers");
    ReadField(rest.substr(0, end));
  }
  ReadFraming();
}

void HttpParser::ReadRequestLine(std::string_view line) {
  const size_t first = line.find(' '), last = line.rfind(' ');
  if (first == line.npos || first == last) Refuse(400, "the request line is not METHOD TARGET VERSION");
  const std::string_view method = line.substr(0, first), version = line.substr(last + 1);
  const std::string_view target = line.substr(first + 1, last - first - 1);
  if (!IsToken(method) || method.size() > 16) Refuse(400, "the method is not one of HTTP's");
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    const bool http = version.size() == 8 && version.starts_with("HTTP/") && IsDigit(version[5]);
    Refuse(http ? 505 : 400, "the version is neither HTTP/1.1 nor HTTP/1.0");
  }
  if (target.size() > limits_.target) Refuse(414, "the target is too long");
  const auto visible = [](char c) { return c > 0x20 && c < 0x7f && c != '#'; };
  if (!std::ranges::all_of(target, visible)) Refuse(400, "the target holds a character that belongs in no target");
  const bool asterisk = target == "*" && method == "OPTIONS";
  if (!target.starts_with('/') && !asterisk) Refuse(400, "the target is not a path");
  const size_t question = target.find('?');
  request_.method = method;
  request_.path = target.substr(0, question);
  if (question != target.npos) request_.query = target.substr(question + 1);
  request_.minor = version.back() - '0';
}

void HttpParser::ReadField(std::string_view line) {
  const size_t colon = line.find(':');
  if (colon == line.npos || !IsToken(line.substr(0, colon))) Refuse(400, "a header is not NAME: VALUE");
  const std::string_view value = Trimmed(line.substr(colon + 1));
  if (!std::ranges::all_of(value, IsFieldCharacter)) Refuse(400, "a header's value holds a control character");
  std::string name(line.substr(0, colon));
  std::ranges::transform(name, name.begin(), Lower);
  request_.headers.emplace_back(std::move(name), value);
}

void HttpParser::ReadFraming() {
  const auto count = [&](std::string_view name) {
    return std::ranges::count_if(request_.headers, [&](const auto& field) { return field.first == name; });
  };
  const auto hosts = count("host"), lengths = count("content-length"), encodings = count("transfer-encoding");
  if (hosts > 1 || (hosts == 0 && request_.minor == 1)) Refuse(400, "there must be one Host header");
  if (hosts == 1 && !std::ranges::all_of(*request_.Header("host"), IsHostCharacter)) Refuse(400, "the Host is no host");
  if (encodings > 0) {
    if (lengths > 0) Refuse(400, "both Content-Length and Transfer-Encoding");
    if (encodings > 1 || !EqualNoCase(*request_.Header("transfer-encoding"), "chunked")) {
      Refuse(400, "the Transfer-Encoding is not chunked");
    }
    if (request_.minor == 0) Refuse(400, "HTTP/1.0 has no Transfer-Encoding");
    chunked_ = true;
    state_ = State::kChunkLine;
    return;
  }
  if (lengths > 1) Refuse(400, "more than one Content-Length");
  if (lengths == 0) {
    state_ = State::kDone;
    return;
  }
  const std::string& text = *request_.Header("content-length");
  if (text.empty() || text.size() > 18 || !std::ranges::all_of(text, IsDigit)) {
    Refuse(400, "the Content-Length is not a length");
  }
  std::from_chars(text.data(), text.data() + text.size(), length_);
  if (length_ > limits_.body) Refuse(413, "the body is longer than " + std::to_string(limits_.body) + " bytes");
  state_ = length_ > 0 ? State::kLength : State::kDone;
}

void HttpParser::ReadChunkLine() {
  const std::string_view digits = std::string_view(line_).substr(0, line_.find(';'));
  uint64_t size = 0;
  const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), size, 16);
  const bool whole = read.ec == std::errc() && read.ptr == digits.data() + digits.size();
  if (!whole || digits.size() > 8 || digits.starts_with('-')) Refuse(400, "a chunk's length is not one");
  if (!std::ranges::all_of(line_, IsFieldCharacter)) Refuse(400, "a chunk's line holds a control character");
  if (size > limits_.body - request_.body.size()) {
    Refuse(413, "the body is longer than " + std::to_string(limits_.body) + " bytes");
  }
  length_ = size;
  state_ = size == 0 ? State::kTrailer : State::kChunk;
}

}  // namespace cambium::server
