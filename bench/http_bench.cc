// http_bench CAMBIUM [MODEL]: what HTTP costs. The same requests on an engine of this process, and streamed by `CAMBIUM
// serve`, by turns: tokens a second of 1 and 16 at once, and the first token's time of one alone.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "cambium/cambium.h"

namespace cambium {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kTokens = 192;

double Seconds(Clock::time_point since) { return std::chrono::duration<double>(Clock::now() - since).count(); }

std::string Prompt(int number) {
  return fmt::format("Chapter {}. The keeper of the lighthouse wrote down what he saw:", number);
}

struct Result {
  double tokens_per_second = 0, first_ms = 0;
};

Result OnEngine(Engine& engine, int streams) {
  engine.ForgetCached();
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < streams; ++i) {
    Request request;
    request.prompt = engine.model().Tokenize(Prompt(i));
    request.max_tokens = kTokens;
    request.ignore_end = true;
    request.sampling.temperature = 0;
    request.drafting.drafters = {"none"};
    engine.Submit(std::move(request));
  }
  Result result;
  while (engine.Step([&](const Event& event) {
    if (event.kind == Event::Kind::kToken && result.first_ms == 0) result.first_ms = 1000 * Seconds(start);
  })) {
  }
  result.tokens_per_second = streams * kTokens / Seconds(start);
  return result;
}

class ServerProcess {
 public:
  ServerProcess(const char* program, const char* model) {
    int out[2];
    if (pipe(out) != 0) Fail(ErrorCode::kRuntime, "no pipe");
    process_ = fork();
    if (process_ == 0) {
      dup2(out[1], STDOUT_FILENO);
      execl(program, program, "serve", model, "-q", "--port", "0", nullptr);
      _exit(127);
    }
    close(out[1]);
    std::string line;
    for (char c; read(out[0], &c, 1) == 1 && c != '\n';) line += c;
    close(out[0]);
    port_ = std::atoi(line.substr(line.rfind(':') + 1).c_str());
    if (port_ == 0) Fail(ErrorCode::kRuntime, program, ": does not serve");
  }
  ~ServerProcess() {
    kill(process_, SIGTERM);
    waitpid(process_, nullptr, 0);
  }

  int Ask(const std::string& body) const {
    const int s = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port_));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(s, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
      Fail(ErrorCode::kRuntime, "no connection");
    const std::string bytes = fmt::format(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        "Content-Length: {}\r\n\r\n{}",
        body.size(), body);
    if (send(s, bytes.data(), bytes.size(), 0) != std::ssize(bytes)) Fail(ErrorCode::kRuntime, "not sent");
    return s;
  }

 private:
  pid_t process_;
  int port_;
};

Result OverHttp(const ServerProcess& server, int streams, const std::string& salt) {
  const Clock::time_point start = Clock::now();
  std::vector<pollfd> sockets;
  std::map<int, std::string> texts;
  for (int i = 0; i < streams; ++i) {
    const std::string body = fmt::format(
        R"({{"prompt":"{}","max_tokens":{},"ignore_eos":true,"temperature":0,"draft":"none","stream":true,)"
        R"("cache_salt":"{}"}})",
        Prompt(i), kTokens, salt);
    sockets.push_back({server.Ask(body), POLLIN, 0});
  }
  Result result;
  size_t open = sockets.size();
  std::vector<char> buffer(1 << 16);
  while (open > 0) {
    poll(sockets.data(), sockets.size(), -1);
    for (pollfd& s : sockets) {
      if (s.fd < 0 || s.revents == 0) continue;
      const ssize_t count = recv(s.fd, buffer.data(), buffer.size(), 0);
      if (count > 0) {
        texts[s.fd].append(buffer.data(), static_cast<size_t>(count));
        if (result.first_ms == 0 && texts[s.fd].find("\"text\":") != std::string::npos)
          result.first_ms = 1000 * Seconds(start);
        continue;
      }
      close(s.fd);
      s.fd = -1;
      --open;
    }
  }
  result.tokens_per_second = streams * kTokens / Seconds(start);
  for (const auto& [unused, text] : texts) {
    if (text.find("data: [DONE]") == std::string::npos)
      Fail(ErrorCode::kRuntime, "a stream was cut: ", text.substr(0, 200));
  }
  return result;
}

double Median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void Compare(const char* program, const char* model) {
  constexpr int kRounds = 5;
  for (const int streams : {1, 16}) {
    std::vector<double> rates, first;
    Result own, http;
    for (int round = 0; round < kRounds; ++round) {
      {
        Engine engine = Engine::Load(model);
        OnEngine(engine, 1);  // warm
        own = OnEngine(engine, streams);
      }
      {
        const ServerProcess server(program, model);
        while (true) {  // loaded?
          try {
            OverHttp(server, 1, "warm");
            break;
          } catch (const Error&) {
            usleep(20000);
          }
        }
        http = OverHttp(server, streams, fmt::format("round {}", round));
      }
      rates.push_back(http.tokens_per_second / own.tokens_per_second);
      first.push_back(http.first_ms - own.first_ms);
    }
    fmt::print(
        "{} streams: engine {:.1f} tokens/s, HTTP {:.1f}; HTTP over engine {:.3f} (median of {}); first token {:.2f} "
        "ms later\n",
        streams, own.tokens_per_second, http.tokens_per_second, Median(rates), kRounds, Median(first));
  }
}

}  // namespace
}  // namespace cambium

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: http_bench CAMBIUM [MODEL]\n");
    return 2;
  }
  try {
    cambium::Compare(argv[1], argc > 2 ? argv[2] : "smollm2");
  } catch (const cambium::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
