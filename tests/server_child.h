#pragma once

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
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "test_model.h"

// `cambium serve` as a process of our own, and what goes to and fro.
namespace cambium {

using nlohmann::json;

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
inline std::vector<json> Events(const std::string& body, bool* done = nullptr) {
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

inline std::string Joined(const std::vector<json>& events) {
  std::string text;
  for (const json& event : events) {
    for (const json& choice : event["choices"]) text += choice.value("text", "");
  }
  return text;
}

// A completion to ask for, greedy.
inline json Asked(const std::string& prompt, int tokens, json more = json::object()) {
  json body = {{"prompt", prompt}, {"max_tokens", tokens}, {"temperature", 0}};
  body.update(more);
  return body;
}

// One server for all tests that change nothing of it.
inline const Child& Shared() {
  static const Child child;
  return child;
}

class Server : public testing::Test {
 protected:
  void SetUp() override {
    if (DefaultTestModel().empty()) GTEST_SKIP() << "no model";
  }
};

}  // namespace cambium
