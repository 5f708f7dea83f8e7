#include "server/http_parser.h"

#include <gtest/gtest.h>

namespace cambium::server {
namespace {

struct Outcome {
  int status = 0;     // of the refusal; 0: none
  bool done = false;  // the request is whole
  HttpRequest request;
  size_t taken = 0;
};

// Feeds `bytes` in pieces of `step`.
Outcome Parse(std::string_view bytes, size_t step = 1 << 20, HttpLimits limits = {}) {
  HttpParser parser(limits);
  Outcome outcome;
  try {
    while (outcome.taken < bytes.size() && !parser.done()) {
      const size_t count = parser.Feed(bytes.substr(outcome.taken, step));
      outcome.taken += count;
      EXPECT_GT(count, 0u);
      if (count == 0) break;
    }
  } catch (const HttpError& error) {
    outcome.status = error.status;
  }
  outcome.done = parser.done();
  outcome.request = parser.request();
  return outcome;
}

int Status(std::string_view bytes, HttpLimits limits = {}) {
  const Outcome whole = Parse(bytes, 1 << 20, limits);
  for (const size_t step : {1, 2, 3, 7}) {  // how the bytes are cut changes nothing
    EXPECT_EQ(Parse(bytes, step, limits).status, whole.status) << bytes.substr(0, 60);
    EXPECT_EQ(Parse(bytes, step, limits).done, whole.done) << bytes.substr(0, 60);
  }
  return whole.status;
}

constexpr std::string_view kHost = "Host: localhost\r\n";

std::string Get(std::string_view fields, std::string_view target = "/health") {
  return "GET " + std::string(target) + " HTTP/1.1\r\n" + std::string(kHost) + std::string(fields) + "\r\n";
}
std::string Post(std::string_view fields, std::string_view body) {
  return "POST /x HTTP/1.1\r\n" + std::string(kHost) + std::string(fields) + "\r\n" + std::string(body);
}

TEST(HttpParser, ReadsARequestHoweverItIsCut) {
  const std::string bytes = Post("Content-Length: 5\r\nX-Odd:  a b \t\r\n", "helloGET /next");
  for (const size_t step : {1, 2, 3, 5, 1000}) {
    const Outcome outcome = Parse(bytes, step);
    ASSERT_TRUE(outcome.done);
    EXPECT_EQ(outcome.request.method, "POST");
    EXPECT_EQ(outcome.request.path, "/x");
    EXPECT_EQ(outcome.request.body, "hello");
    EXPECT_EQ(*outcome.request.Header("x-odd"), "a b");
    EXPECT_EQ(bytes.substr(outcome.taken), "GET /next");
  }
}

TEST(HttpParser, SplitsTheTarget) {
  const Outcome outcome = Parse(Get("", "/v1/models?a=b?c"));
  EXPECT_EQ(outcome.request.path, "/v1/models");
  EXPECT_EQ(outcome.request.query, "a=b?c");
  EXPECT_EQ(Parse(Get("", "/%76%31/..//x")).request.path, "/%76%31/..//x");
}

TEST(HttpParser, JoinsChunks) {
  const std::string head = "Transfer-Encoding: Chunked\r\n";
  for (const size_t step : {1, 2, 3, 1000}) {
    const Outcome outcome =
        Parse(Post(head, "5\r\nhello\r\nA;name=\"v\"\r\n, everyone\r\n0\r\nX-Sum: 1\r\n\r\n"), step);
    ASSERT_TRUE(outcome.done);
    EXPECT_EQ(outcome.request.body, "hello, everyone");
  }
}

TEST(HttpParser, TakesWhatIsMerelyUnusual) {
  EXPECT_EQ(Status("\r\n" + Get("")), 0);
  EXPECT_EQ(Status("GET / HTTP/1.0\r\n\r\n"), 0);
  EXPECT_EQ(Status("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"), 0);
  EXPECT_EQ(Status(Get("Empty:\r\n")), 0);
  EXPECT_EQ(Status(Get("Content-Length: 0\r\n")), 0);
  EXPECT_EQ(Status(Post("Content-Length: 000000005\r\n", "hello")), 0);
}

TEST(HttpParser, RefusesWhatTwoReadersMayReadInTwoWays) {
  const std::string_view bodies[] = {"Content-Length: 5\r\nContent-Length: 6\r\n",
                                     "Content-Length: 5\r\nContent-Length: 5\r\n",
                                     "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                                     "Content-Length: +5\r\n",
                                     "Content-Length: -5\r\n",
                                     "Content-Length: 5, 5\r\n",
                                     "Content-Length: 0x5\r\n",
                                     "Content-Length: \r\n",
                                     "Content-Length: 5 5\r\n",
                                     "Content-Length: 99999999999999999999\r\n",
                                     "Transfer-Encoding: gzip\r\n",
                                     "Transfer-Encoding: chunked, identity\r\n",
                                     "Transfer-Encoding: identity\r\n",
                                     "Transfer-Encoding: xchunked\r\n",
                                     "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                                     "Transfer-Encoding : chunked\r\n",
                                     "X: a\r\n folded\r\n",
                                     "X: a\nY: b\r\n",
                                     "X: a\rY: b\r\n",
                                     "No colon\r\n",
                                     ": no name\r\n",
                                     "A b: c\r\n",
                                     "Host: twice\r\n",
                                     std::string_view("X: \0\r\n", 6),
                                     "X: \x7f\r\n",
                                     "X: \x01\r\n"};
  for (const std::string_view fields : bodies) EXPECT_EQ(Status(Post(fields, "hello")), 400) << fields;
  EXPECT_EQ(Status("POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400);
  EXPECT_EQ(Status("GET / HTTP/1.1\r\n\r\n"), 400);  // no Host
  EXPECT_EQ(Status("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), 400);
  EXPECT_EQ(Status("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"), 400);
}

TEST(HttpParser, RefusesBadRequestLines) {
  for (const std::string_view line :
       {"GET", "GET /", "GET  HTTP/1.1", "GET x HTTP/1.1", "GET http://x/ HTTP/1.1", "G\tET / HTTP/1.1",
        "GET /a b HTTP/1.1", "GET /\x80 HTTP/1.1", "GET /#a HTTP/1.1", "GET / HTTP/1.1 ", " GET / HTTP/1.1",
        "GET / http/1.1", "AVERYLONGMETHODNAME / HTTP/1.1", "* * *"}) {
    EXPECT_EQ(Status(std::string(line) + "\r\nHost: x\r\n\r\n"), 400) << line;
  }
  for (const std::string_view version : {"HTTP/2.0", "HTTP/1.2", "HTTP/0.9"}) {
    EXPECT_EQ(Status("GET / " + std::string(version) + "\r\nHost: x\r\n\r\n"), 505);
  }
  EXPECT_EQ(Status("GET / HTTP/1.1\nHost: x\n\n"), 400);
  EXPECT_EQ(Status("\n"), 400);
  EXPECT_EQ(Status("\rX"), 400);
  EXPECT_EQ(Status("\x16\x03\x01"), 400);  // TLS: said at once
}

TEST(HttpParser, RefusesBadChunks) {
  for (const std::string_view body :
       {"-2\r\n{}\r\n0\r\n\r\n", "0x2\r\n{}\r\n0\r\n\r\n", "\r\n", "g\r\n", "2\n{}\n0\n\n", "2 \r\n{}\r\n",
        "2\r\n{}x\r\n", "2\r\n{}\n", "100000000\r\n", "fffffffffffffffff\r\n", " 2\r\n", "+2\r\n", "2;\x01\r\n"}) {
    const int status = Status(Post("Transfer-Encoding: chunked\r\n", body));
    EXPECT_TRUE(status == 400 || status == 413) << body << " " << status;
  }
  EXPECT_EQ(Status(Post("Transfer-Encoding: chunked\r\n", "1;" + std::string(1000, 'a'))), 400);
  EXPECT_EQ(Status(Post("Transfer-Encoding: chunked\r\n", "0\r\n" + std::string(9000, 'a'))), 400);
}

TEST(HttpParser, BoundsEverything) {
  EXPECT_EQ(Status(Get("", "/" + std::string(9000, 'a'))), 414);
  EXPECT_EQ(Status("GET /" + std::string(40000, 'a')), 414);  // without an end
  EXPECT_EQ(Status(Get("X: " + std::string(40000, 'a') + "\r\n")), 431);
  std::string fields;
  for (int i = 0; i < 200; ++i) fields += "X: y\r\n";
  EXPECT_EQ(Status(Get(fields)), 431);
  const HttpLimits small = {.body = 10};
  EXPECT_EQ(Status(Post("Content-Length: 11\r\n", ""), small), 413);
  EXPECT_EQ(Status(Post("Content-Length: 1000000000000\r\n", "")), 413);
  EXPECT_EQ(Status(Post("Transfer-Encoding: chunked\r\n", "6\r\n123456\r\n5\r\n"), small), 413);
  EXPECT_EQ(Status(Post("Content-Length: 10\r\n", "0123456789"), small), 0);
}

TEST(HttpRequest, FindsTokensInLists) {
  const HttpRequest request = Parse(Get("Connection: keep-alive,  Close\r\n")).request;
  EXPECT_TRUE(request.HasToken("connection", "close"));
  EXPECT_TRUE(request.HasToken("connection", "keep-alive"));
  EXPECT_FALSE(request.HasToken("connection", "keep"));
  EXPECT_FALSE(request.HasToken("upgrade", "close"));
}

}  // namespace
}  // namespace cambium::server
