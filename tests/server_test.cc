// `cambium serve` from outside, over sockets, beside `cambium generate`.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#include "server_child.h"
#include "temp_folder.h"

namespace cambium {
namespace {

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
  for (const auto& [line, allowed] : {std::pair("GET /v1/completions", "POST"), std::pair("PUT /health", "GET, HEAD"),
                                      std::pair("DELETE /v1/models", "GET, HEAD")}) {
    const Child::Answer answer = Shared().Raw(Child::Head(line) + "\r\n");
    EXPECT_EQ(answer.status, 405) << line;
    EXPECT_NE(answer.head.find(std::string("\r\nAllow: ") + allowed + "\r\n"), std::string::npos) << answer.head;
  }
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

TEST_F(Server, ADrafterThatNobodyKnowsIsRefusedAtTheStart) {
  for (const char* drafter : {"nobody", "ngram:zzz=1"}) {
    const std::string command = "'" CAMBIUM_CLI "' serve '" + DefaultTestModel() + "' --port 0 --draft " + drafter;
    const int status = std::system((command + " > /dev/null 2>&1").c_str());
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 2) << drafter << ": " << status;
  }
}

TEST_F(Server, NoGraftIsLoadedFromAPipe) {
  const TempFolder folder;
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  std::ofstream(folder / "key") << "boss\n";
  const Child child({"--allow-load", folder / "", "--admin-key-file", folder / "key"});
  const json body = {{"lora_name", "a"}, {"lora_path", "pipe"}};
  EXPECT_EQ(child.Post("/v1/load_lora_adapter", body, "Authorization: Bearer boss\r\n").status, 404);
}

TEST_F(Server, SleepsWhereNobodyAsksAndAwakesForARequest) {
  const Child child({"--sleep-idle", "0.3"});
  const json body = Asked("The cambium of a tree is", 12);
  for (int round = 0; round < 2; ++round) {
    const Child::Answer answer = child.Post("/v1/completions", body);
    ASSERT_EQ(answer.status, 200) << answer.body;
    EXPECT_EQ(answer.Json()["choices"][0]["text"], Shared().Post("/v1/completions", body).Json()["choices"][0]["text"]);
    bool asleep = false;
    for (int i = 0; i < 400 && !asleep; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      asleep = child.Get("/props").Json()["is_sleeping"];
    }
    EXPECT_TRUE(asleep);
    EXPECT_EQ(child.Get("/health").status, 200);
    EXPECT_EQ(child.Get("/v1/models").Json()["data"][0]["max_model_len"], 512);
    EXPECT_EQ(Metric(child, "vllm:engine_sleep_state"), 1);
  }
  EXPECT_EQ(child.Post("/tokenize", {{"content", "a"}}).status, 200);
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
