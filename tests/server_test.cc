// `cambium serve` from outside, over sockets, beside `cambium generate`.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "temp_folder.h"
#include "test_model.h"

namespace cambium {
namespace {

using nlohmann::json;

class Server : public testing::Test {
  void SetUp() override {
    if (DefaultTestModel().empty()) GTEST_SKIP() << "no model";
  }
};

// A server of our own, with options behind its model.
class Child {
 public:
  explicit Child(const std::vector<std::string>& options = {}) {
    int out[2];
    EXPECT_EQ(pipe(out), 0);
    process_ = fork();
    if (process_ == 0) {
      dup2(out[1], STDOUT_FILENO);
      const int null = open("/dev/null", O_RDWR);
      dup2(null, STDERR_FILENO);
      dup2(null, STDIN_FILENO);
      std::vector<std::string> words = {CAMBIUM_CLI, "serve", DefaultTestModel(), "-a", "m", "-c", "512",
                                        "-t",        "2",     "--port",           "0"};
      words.insert(words.end(), options.begin(), options.end());
      std::vector<char*> arguments;
      for (std::string& word : words) arguments.push_back(word.data());
      arguments.push_back(nullptr);
      execv(CAMBIUM_CLI, arguments.data());
      _exit(127);
    }
    close(out[1]);
    std::string line;
    for (char c; read(out[0], &c, 1) == 1 && c != '\n';) line += c;
    close(out[0]);
    port_ = std::atoi(line.substr(line.rfind(':') + 1).c_str());
    EXPECT_GT(port_, 0) << line;
    while (port_ > 0 && Get("/ready").status != 200) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  ~Child() {
    if (process_ > 0) {
      kill(process_, SIGKILL);
      waitpid(process_, nullptr, 0);
    }
  }

  void Signal(int signal) const { kill(process_, signal); }
  int Wait() {
    int status = 0;
    waitpid(std::exchange(process_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  int Connect() const {
    const int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const timeval patience{60, 0};
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port_));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(s, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return s;
    close(s);
    return -1;
  }

  struct Answer {
    int status = 0;
    std::string head, body;
    json Json() const { return json::parse(body); }
  };
  // What comes back until the server closes.
  Answer Raw(const std::string& bytes) const {
    Answer answer;
    const int s = Connect();
    if (s < 0) return answer;
    EXPECT_EQ(send(s, bytes.data(), bytes.size(), MSG_NOSIGNAL), std::ssize(bytes));
    std::string all;
    char buffer[65536];
    for (ssize_t count; (count = recv(s, buffer, sizeof buffer, 0)) > 0;)
      all.append(buffer, static_cast<size_t>(count));
    close(s);
    const size_t end = all.find("\r\n\r\n");
    if (end == all.npos) return answer;
    answer.status = std::atoi(all.c_str() + 9);
    answer.head = all.substr(0, end);
    answer.body = all.substr(end + 4);
    return answer;
  }
  static std::string Head(const std::string& line, const std::string& fields = "") {
    return line + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + fields;
  }
  Answer Get(const std::string& path, const std::string& fields = "") const {
    return Raw(Head("GET " + path, fields) + "\r\n");
  }
  static std::string PostBytes(const std::string& path, const std::string& body, const std::string& fields = "") {
    return Head("POST " + path,
                fields + "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size())) +
           "\r\n\r\n" + body;
  }
  Answer Post(const std::string& path, const json& body, const std::string& fields = "") const {
    return Raw(PostBytes(path, body.dump(), fields));
  }

 private:
  pid_t process_ = -1;
  int port_ = 0;
};

// The events of a stream, chunks taken apart.
std::vector<json> Events(const std::string& body, bool* done = nullptr) {
  std::string text;
  for (size_t at = 0; at < body.size();) {
    const size_t size = std::stoul(body.substr(at), nullptr, 16);
    at = body.find("\r\n", at) + 2;
    text += body.substr(at, size);
    at += size + 2;
  }
  std::vector<json> events;
  for (size_t at = 0; (at = text.find("data: ", at)) != text.npos;) {
    at += 6;
    const std::string data = text.substr(at, text.find("\n\n", at) - at);
    if (data != "[DONE]") events.push_back(json::parse(data));
    if (done != nullptr) *done = data == "[DONE]";
  }
  return events;
}

std::string Joined(const std::vector<json>& events) {
  std::string text;
  for (const json& event : events) {
    for (const json& choice : event["choices"]) text += choice.value("text", "");
  }
  return text;
}

// The text that `generate` prints.
std::string Generated(const std::string& options) {
  const TempFolder folder;
  const std::string out = folder / "out";
  const std::string command = "'" CAMBIUM_CLI "' generate '" + DefaultTestModel() + "' -c 512 -t 2 --json " + options +
                              " > '" + out + "' 2> /dev/null < /dev/null";
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  std::ifstream file(out);
  return json::parse(file)["text"];
}

json Asked(const std::string& prompt, int tokens, json more = json::object()) {
  json body = {{"prompt", prompt}, {"max_tokens", tokens}, {"temperature", 0}};
  body.update(more);
  return body;
}

const Child& Shared() {
  static const Child child;
  return child;
}

TEST_F(Server, AnswersAsTheCommandLine) {
  const std::string greedy = Generated("-p 'The cambium of a tree is' -n 40 --temp 0 --draft none");
  const std::string drawn = Generated("-p 'The cambium of a tree is' -n 40 --seed 11 --draft none");
  for (const char* draft : {"auto", "none"}) {
    const json plain =
        Shared().Post("/v1/completions", Asked("The cambium of a tree is", 40, {{"draft", draft}})).Json();
    EXPECT_EQ(plain["choices"][0]["text"], greedy);
    const json body = {{"prompt", "The cambium of a tree is"}, {"max_tokens", 40}, {"seed", 11}, {"draft", draft}};
    EXPECT_EQ(Shared().Post("/v1/completions", body).Json()["choices"][0]["text"], drawn);
  }
}

TEST_F(Server, ItsStreamsJoinToThePlainAnswerAlsoInCompany) {
  const json body = Asked("Once upon a time", 48, {{"temperature", 1}, {"seed", 5}});
  const std::string plain = Shared().Post("/v1/completions", body).Json()["choices"][0]["text"];
  json streamed = body;
  streamed["stream"] = true;
  std::vector<std::string> texts(6);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < texts.size(); ++i) {
    threads.emplace_back([&, i] {
      if (i % 2 == 0) {
        bool done = false;
        texts[i] = Joined(Events(Shared().Post("/v1/completions", streamed).body, &done));
        EXPECT_TRUE(done);
      } else {
        texts[i] = Shared().Post("/v1/completions", body).Json()["choices"][0]["text"];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& text : texts) EXPECT_EQ(text, plain);
}

TEST_F(Server, ACompletionIsBoundByAGrammar) {
  const json body = Asked("Is it so?", 8, {{"grammar", "root ::= \"yes\" | \"no\""}});
  const json choice = Shared().Post("/v1/completions", body).Json()["choices"][0];
  EXPECT_TRUE(choice["text"] == "yes" || choice["text"] == "no") << choice;
  EXPECT_EQ(choice["finish_reason"], "stop");
  const json number =
      Asked("How many?", 8, {{"response_format", {{"type", "json_schema"}, {"schema", {{"const", 7}}}}}});
  EXPECT_EQ(Shared().Post("/v1/completions", number).Json()["choices"][0]["text"], "7");
}

TEST_F(Server, TheFinalMessageIsContinuedWhicheverWayItIsSaid) {
  json body = {{"max_tokens", 8}, {"temperature", 0}};
  body["messages"] =
      json::array({{{"role", "user"}, {"content", "Count."}}, {{"role", "assistant"}, {"content", "One, two,"}}});
  const json plain = Shared().Post("/v1/chat/completions", body).Json();
  body["continue_final_message"] = true;
  body["add_generation_prompt"] = false;
  const json said = Shared().Post("/v1/chat/completions", body).Json();
  EXPECT_EQ(said["choices"], plain["choices"]);
  EXPECT_EQ(said["usage"]["prompt_tokens"], plain["usage"]["prompt_tokens"]);
}

TEST_F(Server, UsageIsInEveryChunkOnlyBesideThatOfTheEnd) {
  for (const bool include : {true, false}) {
    const json options = {{"include_usage", include}, {"continuous_usage_stats", true}};
    const json body = Asked("The sea is", 4, {{"stream", true}, {"stream_options", options}});
    const std::vector<json> events = Events(Shared().Post("/v1/completions", body).body);
    ASSERT_FALSE(events.empty());
    for (const json& event : events) EXPECT_EQ(event.contains("usage"), include) << event;
  }
}

TEST_F(Server, RefusesByName) {
  struct Bad {
    json more;
    const char* named;
  };
  const Bad bads[] = {{{{"temperature", -1}}, "temperature"},
                      {{{"top_p", 1.5}}, "top_p"},
                      {{{"n", 0}}, "n"},
                      {{{"stop", 123}}, "stop"},
                      {{{"stop", ""}}, "stop"},
                      {{{"seed", 1e30}}, "seed"},
                      {{{"prompt", json::array({-1})}}, "vocabulary"},
                      {{{"prompt", json::array()}}, "prompt"},
                      {{{"prompt", nullptr}}, "prompt"},
                      {{{"logprobs", 21}}, "logprobs"},
                      {{{"best_of", 7}}, "best_of"},
                      {{{"suffix", "x"}}, "suffix"},
                      {{{"cache_salt", ""}}, "cache_salt"},
                      {{{"draft", "corpus:index=/etc/passwd"}}, "draft"},
                      {{{"logit_bias", {{"-3", 1}}}}, "-3"},
                      {{{"stream_options", json::object()}}, "stream_options"},
                      {{{"guided_regex", "a"}}, "guided_regex"},
                      {{{"grammar", "root ::= missing"}}, "grammar: line 1"},
                      {{{"structured_outputs", {{"regex", "["}}}}, "structured_outputs"},
                      {{{"draft", "nobody"}}, "nobody"}};
  for (const Bad& bad : bads) {
    const Child::Answer answer = Shared().Post("/v1/completions", Asked("a", 1, bad.more));
    EXPECT_EQ(answer.status, 400) << bad.more;
    const std::string message = answer.Json()["error"]["message"];
    EXPECT_NE(message.find(bad.named), std::string::npos) << message;
    EXPECT_LT(message.size(), 1100u);
  }
  EXPECT_EQ(Shared().Post("/v1/completions", Asked("a", 1, {{"model", "nobody"}})).status, 404);
  EXPECT_EQ(Shared().Post("/v1/completions", Asked("a", 1, {{"zzz", 1}, {"seed", nullptr}})).status, 200);
}

TEST_F(Server, RefusesWhatIsNoRequest) {
  for (const char* body : {"", "{", "[]", "null", "{\"a\":1,\"a\":2}", "{} x", "\xff"}) {
    EXPECT_EQ(Shared().Raw(Child::PostBytes("/v1/completions", body)).status, 400) << body;
  }
  for (const std::string tail : {std::string(1, '\0'), std::string("\0 more", 6)}) {
    EXPECT_EQ(Shared().Raw(Child::PostBytes("/v1/completions", Asked("a", 1).dump() + tail)).status, 400);
  }
  EXPECT_EQ(Shared().Raw(Child::PostBytes("/v1/completions", std::string(100000, '['))).status, 400);
  for (const char* path : {"/tokenize", "/apply-template"}) {
    const json messages = json::array({{{"role", "user"}, {"content", "a"}}});
    EXPECT_EQ(Shared().Post(path, {{"messages", messages}, {"model", "nobody"}}).status, 404) << path;
  }
  EXPECT_EQ(Shared().Raw("GET / HTTP/1.1\nHost: x\n\n").status, 400);
  EXPECT_EQ(Shared().Raw("GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").status, 403);
  EXPECT_EQ(Shared().Get("/v1/models", "Origin: http://evil.example\r\n").status, 403);
  EXPECT_EQ(Shared().Get("/nothing").status, 404);
  EXPECT_EQ(Shared().Get("/v1/completions").status, 405);
  EXPECT_EQ(
      Shared()
          .Raw(Child::Head("POST /v1/completions", "Content-Type: text/plain\r\nContent-Length: 2\r\n") + "\r\n{}")
          .status,
      415);
}

TEST_F(Server, GivesBackTheRequestsIdOrANewOne) {
  EXPECT_NE(Shared().Get("/health", "X-Request-Id: abc-1\r\n").head.find("X-Request-Id: abc-1"), std::string::npos);
  EXPECT_EQ(Shared().Get("/health", "X-Request-Id: a b\r\n").head.find("a b"), std::string::npos);
}

double Metric(const Child& child, const std::string& name) {
  const std::string text = child.Get("/metrics").body;
  double sum = 0;
  for (size_t at = 0; (at = text.find("\n" + name + "{", at)) != text.npos;) {
    at = text.find("} ", at) + 2;
    sum += std::stod(text.substr(at));
  }
  return sum;
}

TEST_F(Server, ALeaverFreesItsPlaceAndTouchesNobody) {
  const json body = Asked("Once upon a time", 40);
  const std::string alone = Shared().Post("/v1/completions", body).Json()["choices"][0]["text"];
  const double aborted = Metric(Shared(), "vllm:request_success_total");
  std::vector<int> leavers;
  for (const bool stream : {true, false}) {
    const int s = Shared().Connect();
    const std::string bytes = Child::PostBytes(
        "/v1/completions", Asked("Count", 480, {{"ignore_eos", true}, {"stream", stream}, {"draft", "none"}}).dump());
    EXPECT_GT(send(s, bytes.data(), bytes.size(), MSG_NOSIGNAL), 0);
    leavers.push_back(s);
  }
  while (Metric(Shared(), "vllm:num_requests_running") < 2) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  for (const int s : leavers) close(s);
  EXPECT_EQ(Shared().Post("/v1/completions", body).Json()["choices"][0]["text"], alone);
  for (int i = 0; i < 200 && Metric(Shared(), "vllm:num_requests_running") > 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(Metric(Shared(), "vllm:num_requests_running"), 0);
  EXPECT_EQ(Metric(Shared(), "vllm:request_success_total"), aborted + 3);
}

TEST_F(Server, KeysGuardEveryRouteButHealth) {
  const TempFolder folder;
  std::ofstream(folder / "keys") << "# ours\nsk-one\nsk-two\n";
  const Child child({"--api-key-file", folder / "keys"});
  for (const char* path :
       {"/v1/models", "/metrics", "/props", "/nothing", "//health", "/%68ealth", "/health/../v1/models"}) {
    EXPECT_EQ(child.Get(path).status, 401) << path;
    EXPECT_EQ(child.Get(path, "Authorization: Bearer sk-on\r\n").status, 401) << path;
  }
  EXPECT_EQ(child.Get("/health").status, 200);
  EXPECT_EQ(child.Get("/v1/models", "Authorization: Bearer sk-two\r\n").status, 200);
  EXPECT_EQ(child.Get("/v1/models", "X-Api-Key: sk-one\r\n").status, 200);
}

TEST_F(Server, AFullQueueIsTold) {
  const Child child({"--parallel", "1", "--queue", "1"});
  const std::string bytes =
      Child::PostBytes("/v1/completions", Asked("Count", 400, {{"ignore_eos", true}, {"draft", "none"}}).dump());
  std::vector<int> busy;
  for (int i = 0; i < 2; ++i) {
    busy.push_back(child.Connect());
    EXPECT_GT(send(busy.back(), bytes.data(), bytes.size(), MSG_NOSIGNAL), 0);
  }
  while (Metric(child, "vllm:num_requests_waiting") < 1) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const Child::Answer answer = child.Post("/v1/completions", Asked("a", 1));
  EXPECT_EQ(answer.status, 429);
  EXPECT_NE(answer.head.find("Retry-After"), std::string::npos);
  for (const int s : busy) close(s);
}

TEST_F(Server, SigtermEndsNoStream) {
  Child child({"--drain-timeout", "60"});
  std::string whole;
  bool done = false;
  std::thread reader([&] {
    whole = Joined(Events(
        child.Post("/v1/completions", Asked("Once", 120, {{"stream", true}, {"ignore_eos", true}})).body, &done));
  });
  while (Metric(child, "vllm:num_requests_running") < 1) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  child.Signal(SIGTERM);
  reader.join();
  EXPECT_TRUE(done);
  EXPECT_EQ(child.Wait(), 0);
  EXPECT_EQ(whole,
            Shared().Post("/v1/completions", Asked("Once", 120, {{"ignore_eos", true}})).Json()["choices"][0]["text"]);
}

TEST_F(Server, WithoutTimeToDrainAStreamEndsWithAnError) {
  Child child({"--drain-timeout", "0"});
  std::vector<json> events;
  bool done = false;
  std::thread reader([&] {
    events = Events(
        child.Post("/v1/completions", Asked("Once", 480, {{"stream", true}, {"ignore_eos", true}, {"draft", "none"}}))
            .body,
        &done);
  });
  while (Metric(child, "vllm:num_requests_running") < 1) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  child.Signal(SIGTERM);
  reader.join();
  EXPECT_EQ(child.Wait(), 0);
  EXPECT_TRUE(done);
  ASSERT_FALSE(events.empty());
  EXPECT_TRUE(events.back().contains("error")) << events.back();
}

}  // namespace
}  // namespace cambium
