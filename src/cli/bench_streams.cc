// Tokens a second of many requests at once; the time that a stream waits between two of its tokens; and what a stream
// waits while another's long prompt is read.
#include "cli/bench_streams.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "cli/bench_draft.h"

namespace cambium::cli {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

double Middle(std::vector<double> values) {
  std::ranges::sort(values);
  return values.empty() ? 0 : values[values.size() / 2];
}

struct Run {
  double all_tps = 0, decode_tps = 0, prompt_tps = 0, longest_gap_ms = 0, tokens_per_pass = 0;
};

class Streams {
 public:
  Streams(const BenchStreamsFlags& flags, const OutputFlags& output, Engine& engine)
      : flags_(flags), output_(output), engine_(engine) {
    if (!flags.prompts.empty()) {
      for (const BenchPrompt& prompt : ReadBenchPrompts(flags.prompts)) {
        const Message message{"user", prompt.turns.front()};
        texts_.push_back(prompt.raw ? engine.model().Tokenize(prompt.turns.front())
                                    : engine.model().TokenizeChat({&message, 1}));
      }
    }
    Adapters adapters;
    for (const std::string& graft : flags.grafts) uses_.push_back(adapters.Load(engine.model(), {graft}));
  }

  void Print(int repetitions) {
    const std::vector<std::string> drafters =
        flags_.drafters.empty() ? std::vector<std::string>{"none"} : flags_.drafters;
    std::map<std::pair<int64_t, std::string>, std::vector<Run>> runs;
    // Kinds of run alternate, so that a drift of the machine meets them all; the first round warms up.
    for (int round = -1; round < repetitions; ++round) {
      for (const int64_t streams : flags_.streams) {
        for (const std::string& draft : drafters) {
          const Run run = Measure(streams, draft, static_cast<uint64_t>(round + 1));
          if (round >= 0) runs[{streams, draft}].push_back(run);
        }
      }
    }
    std::string text = fmt::format("{:>7}  {:<20} {:>10} {:>10} {:>10} {:>9} {:>8}\n", "streams", "draft", "tokens/s",
                                   "prompts/s", "decode/s", "gap, ms", "a pass");
    auto list = nlohmann::ordered_json::array();
    for (const auto& [key, some] : runs) {
      const auto middle = [&some](double Run::*member) {
        std::vector<double> values;
        for (const Run& run : some) values.push_back(run.*member);
        return Middle(values);
      };
      text += fmt::format("{:7}  {:<20} {:10.1f} {:10.1f} {:10.1f} {:9.1f} {:8.2f}\n", key.first, key.second,
                          middle(&Run::all_tps), middle(&Run::prompt_tps), middle(&Run::decode_tps),
                          middle(&Run::longest_gap_ms), middle(&Run::tokens_per_pass));
      list.push_back({{"streams", key.first},
                      {"draft", key.second},
                      {"tps", middle(&Run::all_tps)},
                      {"prompt_tps", middle(&Run::prompt_tps)},
                      {"decode_tps", middle(&Run::decode_tps)},
                      {"longest_gap_ms", middle(&Run::longest_gap_ms)},
                      {"tokens_per_pass", middle(&Run::tokens_per_pass)}});
    }
    if (output_.json) {
      WriteJson({{"streams", list}, {"prompt_tokens", flags_.prompt}, {"tokens", flags_.predict}});
    } else {
      Write(text);
    }
  }

 private:
  std::vector<int32_t> Prompt(uint64_t round, int64_t stream) const {
    if (!texts_.empty()) return texts_[static_cast<size_t>(stream) % texts_.size()];
    return RandomIds(engine_.model(), flags_.prompt, 1000 * (round + 1) + static_cast<uint64_t>(stream));
  }

  Run Measure(int64_t streams, const std::string& draft, uint64_t round) {
    engine_.ForgetCached();
    std::map<RequestId, Clock::time_point> last;
    Run run;
    int64_t prompt_tokens = 0, tokens = 0, passes = 0;
    const Clock::time_point start = Clock::now();
    Clock::time_point first = start;
    for (int64_t i = 0; i < streams; ++i) {
      Request request;
      request.prompt = Prompt(round, i);
      request.max_tokens = flags_.predict;
      request.ignore_end = true;
      request.sampling.temperature = 0;
      request.drafting.drafters = SplitDrafters(draft);
      if (!uses_.empty()) request.adapters = uses_[static_cast<size_t>(i) % uses_.size()];
      prompt_tokens += std::ssize(request.prompt);
      engine_.Submit(std::move(request));
    }
    const Sink sink = [&](const Event& event) {
      if (event.kind == Event::Kind::kFinished) {
        if (event.error) std::rethrow_exception(event.error);
        tokens += std::ssize(event.generation->ids);
        passes += event.generation->draft.passes;
        return;
      }
      const Clock::time_point now = Clock::now();
      const auto [at, fresh] = last.try_emplace(event.request, now);
      if (fresh && std::ssize(last) == streams) first = now;
      if (!fresh) run.longest_gap_ms = std::max(run.longest_gap_ms, 1000 * Seconds(now - at->second));
      at->second = now;
    };
    while (engine_.Step(sink)) {
    }
    const double all = Seconds(Clock::now() - start), read = Seconds(first - start);
    run.all_tps = static_cast<double>(prompt_tokens + tokens) / all;
    run.prompt_tps = static_cast<double>(prompt_tokens) / read;
    run.decode_tps = static_cast<double>(tokens - streams) / (all - read);
    run.tokens_per_pass = passes > 0 ? static_cast<double>(tokens - streams) / static_cast<double>(passes) : 1;
    return run;
  }

  const BenchStreamsFlags& flags_;
  const OutputFlags& output_;
  Engine& engine_;
  std::vector<std::vector<int32_t>> texts_;
  std::vector<std::vector<AdapterUse>> uses_;
};

}  // namespace

void BenchStreams(const BenchStreamsFlags& flags, const OutputFlags& output, Engine& engine, int repetitions) {
  Streams(flags, output, engine).Print(repetitions);
}

}  // namespace cambium::cli
