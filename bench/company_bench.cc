// company_bench [MODEL] [REQUESTS] [ADAPTER]...: the scheduler's promise on a real model. Random requests (lengths,
// adapters, seeds, temperatures, drafters, stop strings) come and are cancelled at random steps, in a cache that is too
// small for all of them; then each is answered alone, without drafts. Every answer must be the same: tokens, text, and
// log-probabilities bit for bit. Ends with 1 where one is not.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/random.h"
#include "cambium/cambium.h"

namespace cambium {
namespace {

constexpr int64_t kContext = 512;

// Whole numbers below n, one after another, all of them from the seed.
class Dice {
 public:
  explicit Dice(uint64_t seed) : noise_(seed) {}
  int64_t operator()(int64_t n) { return static_cast<int64_t>(noise_.Uniform(at_++, 1) * static_cast<double>(n)); }

 private:
  Philox noise_;
  uint64_t at_ = 0;
};

// Texts that begin alike, some of which repeat themselves, so that caches and drafters have work.
std::string Text(Dice& dice) {
  static constexpr std::array<std::string_view, 4> kBeginnings = {
      "Repeat this list word by word.\n\n",
      "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n\n\n",
      "The harbour council met on Tuesday, and the minutes say:\n", ""};
  static constexpr std::array<std::string_view, 8> kPieces = {"apples, pears, plums; ",
                                                              "the pier will be rebuilt in stone. ",
                                                              "def mul(a, b):\n    return a * b\n\n\n",
                                                              "Wer fährt heute nach Hamburg? ",
                                                              "17 + 25 = 42. ",
                                                              "{\"name\": \"Ada\", \"year\": 1843}\n",
                                                              "the boats wait for hours. ",
                                                              "日本語のテキスト。 "};
  std::string text(kBeginnings[static_cast<size_t>(dice(std::ssize(kBeginnings)))]);
  const int64_t repeated = dice(std::ssize(kPieces));
  for (int64_t pieces = 1 + dice(24); pieces > 0; --pieces) {
    text += kPieces[static_cast<size_t>(dice(2) == 0 ? repeated : dice(std::ssize(kPieces)))];
  }
  return text;
}

// A request, all of it from the seed but its drafters.
Request Made(const Model& model, std::span<const Adapter> adapters, uint64_t seed) {
  Dice dice(seed);
  Request request;
  request.prompt = model.Tokenize(Text(dice));
  if (std::ssize(request.prompt) > kContext - 100) request.prompt.resize(kContext - 100);
  for (const Adapter& adapter : adapters) {
    if (dice(3) == 0) request.adapters.push_back({adapter, dice(2) == 0 ? 1.0f : 0.5f});
  }
  request.sampling.temperature = static_cast<float>(dice(3)) * 0.5f;
  request.sampling.seed = seed;
  request.sampling.repeat_penalty = dice(3) == 0 ? 1.1f : 1.0f;
  request.max_tokens = 1 + dice(80);
  request.top_logprobs = static_cast<int>(dice(4)) - 1;
  if (dice(3) == 0) request.stop = {"the ", "\n\n"};
  request.ignore_end = dice(3) == 0;
  return request;
}

bool Same(std::span<const TokenLogprob> a, std::span<const TokenLogprob> b) {
  return std::ranges::equal(
      a, b, [](const TokenLogprob& x, const TokenLogprob& y) { return x.id == y.id && x.logprob == y.logprob; });
}

bool Same(const Generation& a, const Generation& b) {
  return a.ids == b.ids && a.text == b.text && a.finish_reason == b.finish_reason && a.stopped_by == b.stopped_by &&
         Same(a.logprobs, b.logprobs) &&
         std::ranges::equal(a.top, b.top, [](const auto& x, const auto& y) { return Same(x, y); });
}

// The answers of all requests in one engine, by their order; those that were cancelled hold what they had.
std::vector<Generation> Together(const Model& model, std::span<const Adapter> adapters, int64_t count) {
  static constexpr std::array<std::string_view, 5> kDrafters = {"none", "auto", "ngram", "recycle", "exit:layer=4"};
  EngineOptions options;
  options.context = kContext;
  options.parallel = 12;
  options.cache_tokens = 3 * kContext;
  Engine engine(model, options);
  std::vector<Generation> answers(static_cast<size_t>(count));
  std::vector<RequestId> ids;
  Dice dice(1'000'003);
  const Sink sink = [&](const Event& event) {
    if (event.kind != Event::Kind::kFinished) return;
    if (event.error) std::rethrow_exception(event.error);
    const auto at = std::ranges::find(ids, event.request) - ids.begin();
    answers[static_cast<size_t>(at)] = *event.generation;
  };
  while (std::ssize(ids) < count || engine.Step(sink)) {
    if (std::ssize(ids) == count) continue;
    if (dice(3) != 0) {
      engine.Step(sink);
      continue;
    }
    Request request = Made(model, adapters, ids.size());
    request.drafting.drafters = {std::string(kDrafters[static_cast<size_t>(dice(std::ssize(kDrafters)))])};
    request.drafting.max_rows = 1 + dice(24);
    ids.push_back(engine.Submit(std::move(request)));
    if (dice(6) == 0) engine.Cancel(ids[static_cast<size_t>(dice(std::ssize(ids)))]);
  }
  const EngineStats stats = engine.stats();
  fmt::print("together: {} steps, {:.1f} rows a step, {} preemptions, {} pages evicted, {} of {} prompt tokens found\n",
             stats.steps, static_cast<double>(stats.rows) / static_cast<double>(stats.steps), stats.preemptions,
             stats.cache_evicted, stats.prefix_hits, stats.prefix_queries);
  return answers;
}

int Main(int argc, char** argv) {
  const Model model = Model::Load(argc > 1 ? argv[1] : "smollm2");
  const int64_t count = argc > 2 ? std::atoll(argv[2]) : 100;
  std::vector<Adapter> adapters;
  for (int i = 3; i < argc; ++i) adapters.push_back(Adapter::Load(model, argv[i]));
  const std::vector<Generation> together = Together(model, adapters, count);
  EngineOptions options;
  options.context = kContext;
  Engine engine(model, options);
  int64_t different = 0, cancelled = 0, tokens = 0;
  for (int64_t i = 0; i < count; ++i) {
    Request request = Made(model, adapters, static_cast<uint64_t>(i));
    request.drafting.drafters = {"none"};
    const Generation alone = engine.Generate(std::move(request));
    engine.ForgetCached();
    const Generation& answer = together[static_cast<size_t>(i)];
    bool same = Same(answer, alone);
    if (answer.finish_reason == FinishReason::kCancelled) {
      ++cancelled;
      same = answer.ids.size() <= alone.ids.size() &&
             std::ranges::equal(answer.ids, std::span(alone.ids).first(answer.ids.size()));
    }
    if (!same) fmt::print("request {} differs:\n  together {:?}\n  alone    {:?}\n", i, answer.text, alone.text);
    different += same ? 0 : 1;
    tokens += std::ssize(alone.ids);
  }
  fmt::print("{} requests, {} cancelled, {} tokens: {} differ\n", count, cancelled, tokens, different);
  return different == 0 ? 0 : 1;
}

}  // namespace
}  // namespace cambium

int main(int argc, char** argv) {
  try {
    return cambium::Main(argc, argv);
  } catch (const cambium::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
