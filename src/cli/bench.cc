#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "base/random.h"
#include "cambium/sliding_max.h"
#include "cli/bench_draft.h"
#include "cli/bench_streams.h"
#include "cli/options.h"
#include "cli/verbs.h"

namespace cambium::cli {

std::vector<int32_t> RandomIds(const Model& model, int64_t count, uint64_t stream) {
  const Philox random(stream);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>(random.Uniform(i) * static_cast<double>(model.info().vocab));
  }
  return ids;
}

namespace {

struct Flags {
  OutputFlags output;
  ModelFlags model;
  std::vector<std::string> grafts;
  int64_t prompt = 512, predict = 128, depth = 0, verify_depth = 256;
  int repetitions = 5;
  BenchDraftFlags draft;
  BenchStreamsFlags streams;
  std::vector<int64_t> rows = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64};
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// A stall shows as the worst of so many neighbouring decoding passes.
constexpr int64_t kLatencyWindow = 32;

class Bench {
 public:
  explicit Bench(const Flags& flags) : flags_(flags), engine_(LoadModel(WithContext(flags), flags.output)) {
    greedy_.sampling.temperature = 0;
    greedy_.ignore_end = true;
    greedy_.drafting.drafters = {"none"};
    if (flags_.streams.streams.empty()) greedy_.adapters = Adapters().Load(engine_.model(), flags_.grafts);
  }

  void Run() {
    if (!flags_.streams.streams.empty()) {
      BenchStreamsFlags& streams = flags_.streams;
      streams.drafters = flags_.draft.drafters;
      streams.grafts = flags_.grafts;
      streams.prompts = flags_.draft.prompts;
      streams.prompt = flags_.prompt;
      streams.predict = flags_.predict;
      BenchStreams(streams, flags_.output, engine_, flags_.repetitions);
      return;
    }
    if (!flags_.draft.drafters.empty()) {
      flags_.draft.grafts = flags_.grafts;
      BenchDraft(flags_.draft, flags_.output, engine_, flags_.predict, flags_.repetitions);
      return;
    }
    // The kinds of run alternate, so that a drift of the machine meets them all.
    for (int i = -1; i < flags_.repetitions; ++i) {  // -1 warms up
      const double prefill = flags_.prompt > 0 ? Prefill() : 0, decode = flags_.predict > 0 ? Decode() : 0;
      std::vector<double> verify;
      for (const int64_t rows : flags_.rows)
        verify.push_back(engine_.TimePass(flags_.verify_depth, rows, greedy_.adapters));
      engine_.ForgetCached();
      if (i < 0) {
        worst_pass_ms_.clear();
        continue;
      }
      if (prefill > 0) prefill_.push_back(prefill);
      if (decode > 0) decode_.push_back(decode);
      verify_.push_back(verify);
      Note(flags_.output, fmt::format("run {} of {}: prefill {:.1f}, decode {:.1f} tokens/s", i + 1, flags_.repetitions,
                                      prefill, decode));
    }
    flags_.output.json ? PrintJson() : PrintText();
  }

 private:
  static ModelFlags WithContext(const Flags& flags) {
    CheckRange("-p", static_cast<double>(flags.prompt), 0, 1 << 20);
    CheckRange("-n", static_cast<double>(flags.predict), 0, 1 << 20);
    CheckRange("-d", static_cast<double>(flags.depth), 0, 1 << 20);
    CheckRange("--verify-depth", static_cast<double>(flags.verify_depth), 1, 1 << 20);
    CheckRange("-r", flags.repetitions, 1, 1000);
    int64_t most_rows = 0;
    for (const int64_t rows : flags.rows) {
      CheckRange("--verify-rows", static_cast<double>(rows), 1, 64);
      most_rows = std::max(most_rows, rows);
    }
    ModelFlags model = flags.model;
    for (const int64_t streams : flags.streams.streams) {
      CheckRange("--streams", static_cast<double>(streams), 1, 1024);
      model.engine.parallel = std::max(model.engine.parallel, streams);
    }
    if (!flags.streams.streams.empty()) return model;
    if (model.engine.batch) Fail(ErrorCode::kUsage, "--batch goes with --streams");
    if (model.engine.context == 0 && flags.draft.drafters.empty()) {
      model.engine.context =
          std::max(flags.depth + std::max(flags.prompt, flags.predict) + 2, flags.verify_depth + most_rows);
    }
    return model;
  }

  // Tokens per second over `prompt` tokens behind `depth` cached ones, the first drawn token included.
  double Prefill() {
    greedy_.max_tokens = 1;
    std::vector<int32_t> ids = RandomIds(engine_.model(), flags_.depth + flags_.prompt, ++stream_);
    if (flags_.depth > 0) {
      Answer({ids.begin(), ids.begin() + flags_.depth});
    }
    const Timings timings = Answer(ids);
    return 1000 * static_cast<double>(timings.prompt_tokens) / timings.prompt_ms;
  }

  double Decode() {
    greedy_.max_tokens = flags_.predict + 1;  // the first comes from the prompt's pass
    const Timings timings = Answer(RandomIds(engine_.model(), flags_.depth + 1, ++stream_));
    SlidingMaximum<double> worst(kLatencyWindow);
    for (const double ms : timings.pass_ms) {
      worst.Push(ms);
      if (worst.full()) worst_pass_ms_.push_back(worst.value());
    }
    return 1000 * static_cast<double>(timings.decode_tokens) / timings.decode_ms;
  }

  Timings Answer(std::vector<int32_t> prompt) {
    Request request = greedy_;
    request.prompt = std::move(prompt);
    return engine_.Generate(std::move(request)).timings;
  }

  std::vector<double> VerifyRuns(size_t index) const {
    std::vector<double> runs;
    for (const std::vector<double>& run : verify_) runs.push_back(run[index]);
    return runs;
  }
  static int64_t PeakRssBytes() {
    rusage usage = {};
    getrusage(RUSAGE_SELF, &usage);
    return int64_t{1024} * usage.ru_maxrss;
  }

  void PrintJson() const {
    const auto median = [](const std::vector<double>& runs) -> nlohmann::ordered_json {
      return runs.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(Median(runs));
    };
    auto verify = nlohmann::ordered_json::array();
    for (size_t i = 0; i < flags_.rows.size(); ++i) {
      const std::vector<double> runs = VerifyRuns(i);
      verify.push_back({{"rows", flags_.rows[i]}, {"ms", Median(runs)}, {"min_ms", std::ranges::min(runs)}});
    }
    WriteJson({{"prefill_tps", median(prefill_)},
               {"decode_tps", median(decode_)},
               {"verify", verify},
               {"peak_rss_bytes", PeakRssBytes()},
               {"worst_pass_ms", median(worst_pass_ms_)},
               {"prefill_runs", prefill_},
               {"decode_runs", decode_},
               {"prompt_tokens", flags_.prompt},
               {"decode_tokens", flags_.predict},
               {"depth", flags_.depth},
               {"threads", engine_.model().info().threads},
               {"load_ms", engine_.model().info().load_ms}});
  }

  void PrintText() const {
    std::string text =
        engine_.model().info().Describe() + fmt::format(", {} threads\n", engine_.model().info().threads);
    const auto line = [&](const std::string& name, const std::vector<double>& runs) {
      if (runs.empty()) return;
      const auto [low, high] = std::ranges::minmax_element(runs);
      text += fmt::format("{:<16} {:8.1f} tokens/s  [{:.1f} .. {:.1f}]\n", name, Median(runs), *low, *high);
    };
    line(fmt::format("prefill {}", flags_.prompt), prefill_);
    line(fmt::format("decode {}", flags_.predict), decode_);
    if (!worst_pass_ms_.empty()) {
      text += fmt::format("worst of {} passes {:6.2f} ms median, {:.2f} ms greatest\n", kLatencyWindow,
                          Median(worst_pass_ms_), std::ranges::max(worst_pass_ms_));
    }
    double single = 0;
    for (size_t i = 0; i < flags_.rows.size(); ++i) {
      const double fastest = std::ranges::min(VerifyRuns(i));
      if (flags_.rows[i] == 1) single = fastest;
      text += fmt::format("verify {:<9} {:8.2f} ms fastest, {:.2f} ms median", flags_.rows[i], fastest,
                          Median(VerifyRuns(i)));
      text += single > 0 ? fmt::format(", T(n)/T(1) {:.2f}\n", fastest / single) : "\n";
    }
    Write(text + fmt::format("peak memory      {:8.1f} MiB\n", static_cast<double>(PeakRssBytes()) / (1 << 20)));
  }

  Flags flags_;
  Engine engine_;
  Request greedy_;
  uint64_t stream_ = 0;
  std::vector<double> prefill_, decode_;
  std::vector<double> worst_pass_ms_;        // over every window of kLatencyWindow decoding passes
  std::vector<std::vector<double>> verify_;  // [repetition][rows]
};

}  // namespace

void AddBench(CLI::App& app) {
  CLI::App* const verb =
      app.add_subcommand("bench", "Measure prefill, decoding, the cost of a pass of n rows, and drafters");
  const auto flags = std::make_shared<Flags>();
  AddModel(*verb, flags->model);
  AddGrafts(*verb, flags->grafts);
  verb->add_option("-p,--n-prompt", flags->prompt, "Tokens of the prompt (0: skip)")->capture_default_str();
  verb->add_option("-n,--n-gen", flags->predict, "Tokens to decode (0: skip)")->capture_default_str();
  verb->add_option("-d,--n-depth", flags->depth, "Tokens in the cache before either")->capture_default_str();
  verb->add_option("-r,--repetitions", flags->repetitions, "Repetitions after one to warm up")->capture_default_str();
  verb->add_option("--verify-rows", flags->rows, "Rows of the passes to time: 1,2,4; 64 at most")->delimiter(',');
  verb->add_flag_callback(
      "--no-verify", [flags] { flags->rows.clear(); }, "Leave these passes out");
  verb->add_option("--verify-depth", flags->verify_depth, "Tokens in the cache before them")->capture_default_str();
  verb->add_option(
          "--streams", flags->streams.streams,
          "Instead: so many requests at once, of -p tokens in and -n out, or --prompts; --graft is dealt out in turn")
      ->delimiter(',');
  verb->add_flag("--batch", flags->model.engine.batch,
                 "For --streams: nobody reads along, prompts are read in whole passes as generate --jsonl does");
  BenchDraftFlags& draft = flags->draft;
  verb->add_option("--draft", draft.drafters,
                   "Instead: decode --prompts plainly and with this drafter (a+b: with both) and compare; repeatable")
      ->allow_extra_args(false);
  verb->add_option("--prompts", draft.prompts,
                   "jsonl of {\"id\", \"task\", \"turns\": [text, ...]} or {\"prompt\": text}");
  verb->add_flag("--chat", draft.chat, "Raw texts of --prompts go through the chat template too, as turns do");
  verb->add_option("--temp", draft.temperature, "Temperature of that decoding")->capture_default_str();
  verb->add_option("-s,--seed", draft.seed, "Its seed")->capture_default_str();
  verb->add_option("--draft-rows", draft.rows, "Rows that a verifying pass may have at most")->capture_default_str();
  verb->add_option("--draw-tree", draft.tree, "Write a picture (SVG) of a draft that branched and was accepted far");
  AddOutput(*verb, flags->output);
  verb->callback([flags] { Bench(*flags).Run(); });
}

}  // namespace cambium::cli
