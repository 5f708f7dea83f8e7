// serving_bench [MODEL]: what users of a shared engine feel. The longest wait between two tokens of a stream while
// another's prompt of 4,000 tokens is read; the first token of a chat's second turn beside that of its first; sixteen
// requests that begin with the same 1,000 tokens.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/random.h"
#include "cambium/cambium.h"

namespace cambium {
namespace {

using Clock = std::chrono::steady_clock;

double Ms(Clock::duration d) { return std::chrono::duration<double, std::milli>(d).count(); }

std::vector<int32_t> Ids(const Model& model, int64_t count, uint64_t stream) {
  const Philox noise(stream);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>(noise.Uniform(i, 0) * static_cast<double>(model.info().vocab));
  }
  return ids;
}

Request Plain(std::vector<int32_t> prompt, int64_t tokens) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_tokens = tokens;
  request.ignore_end = true;
  request.sampling.temperature = 0;
  request.drafting.drafters = {"none"};
  return request;
}

void Gaps(Engine& engine) {
  const RequestId stream = engine.Submit(Plain(Ids(engine.model(), 64, 1), 600));
  RequestId reader = 0;
  std::vector<double> before, during;
  bool reading = false;
  Clock::time_point last = Clock::now();
  const Sink sink = [&](const Event& event) {
    if (event.request == reader && event.kind == Event::Kind::kToken) reading = false;
    if (event.request != stream || event.kind != Event::Kind::kToken) return;
    const Clock::time_point now = Clock::now();
    (reading ? during : before).push_back(Ms(now - last));
    last = now;
  };
  while (engine.Step(sink)) {
    if (before.size() == 64 && reader == 0) {
      reader = engine.Submit(Plain(Ids(engine.model(), 4000, 2), 1));
      reading = true;
    }
  }
  before.erase(before.begin(), before.begin() + 8);
  std::ranges::sort(before);
  std::ranges::sort(during);
  const double one = before[before.size() / 2];
  fmt::print(
      "a token alone {:.2f} ms; while 4,000 tokens are read {:.2f} ms median, {:.2f} ms longest: {:.2f} x, over {} "
      "tokens\n",
      one, during[during.size() / 2], during.back(), during.back() / one, during.size());
}

void SecondTurn(Engine& engine) {
  std::vector<int32_t> text = Ids(engine.model(), 2000, 3);
  const Generation first = engine.Generate(Plain(text, 40));
  text.insert(text.end(), first.ids.begin(), first.ids.end());
  const std::vector<int32_t> more = Ids(engine.model(), 20, 4);
  text.insert(text.end(), more.begin(), more.end());
  const Generation second = engine.Generate(Plain(text, 4));
  fmt::print("first token of 2,000 tokens {:.1f} ms, of the second turn {:.1f} ms ({} tokens computed): {:.3f} x\n",
             first.timings.prompt_ms, second.timings.prompt_ms, second.timings.prompt_tokens,
             second.timings.prompt_ms / first.timings.prompt_ms);
}

void SharedPrefix(Engine& engine) {
  engine.ForgetCached();
  const std::vector<int32_t> prefix = Ids(engine.model(), 1000, 5);
  for (int32_t i = 0; i < 16; ++i) {
    Request request = Plain(prefix, 16);
    request.prompt.push_back(i + 5);
    engine.Submit(std::move(request));
  }
  int64_t computed = 0, shared = 0;
  while (engine.Step([&](const Event& event) {
    shared = std::max(shared, engine.stats().cache_shared);
    if (event.kind == Event::Kind::kFinished) computed += event.generation->timings.prompt_tokens;
  })) {
  }
  fmt::print("16 requests on the same 1,000 tokens: {} prompt tokens computed, {} pages shared\n", computed, shared);
}

}  // namespace
}  // namespace cambium

int main(int argc, char** argv) {
  using namespace cambium;
  try {
    EngineOptions options;
    options.context = 5000;
    Engine engine = Engine::Load(argc > 1 ? argv[1] : "smollm2", options);
    for (int round = 0; round < 3; ++round) {
      Gaps(engine);
      SecondTurn(engine);
      SharedPrefix(engine);
      engine.ForgetCached();
    }
  } catch (const Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
