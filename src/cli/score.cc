#include <fmt/format.h>

#include <memory>

#include "cli/generate_records.h"
#include "cli/options.h"
#include "cli/verbs.h"

namespace cambium::cli {
namespace {

struct Flags {
  OutputFlags output;
  ModelFlags model;
  InputFlags input;
  std::vector<std::string> grafts;
  RecordFlags records;
};

void ScoreText(const Flags& flags) {
  if (!flags.records.input.empty()) {
    ScoreRecords(flags.records, flags.grafts, flags.model, flags.output, flags.input.special);
    return;
  }
  const Input input = ReadInput(flags.input);
  Engine engine = LoadModel(flags.model, flags.output);
  const Score score = engine.ScoreIds(input.Ids(engine.model()), Adapters().Load(engine.model(), flags.grafts));
  if (flags.output.json) {
    WriteJson(
        {{"ids", score.ids}, {"logprobs", score.logprobs}, {"loss", score.loss}, {"perplexity", score.perplexity}});
    return;
  }
  std::string lines;
  for (size_t i = 0; i < score.ids.size(); ++i) {
    const std::string logprob = i == 0 ? "" : fmt::format("{:.4f}", score.logprobs[i - 1]);
    lines += fmt::format("{:6}  {:>9}  {}\n", score.ids[i], logprob, Quoted(engine.model().Piece(score.ids[i])));
  }
  Write(lines + fmt::format("loss {:.6f}  perplexity {:.4f}\n", score.loss, score.perplexity));
}

}  // namespace

void AddScore(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("score", "Log-probability of each token of a text, loss and perplexity");
  const auto flags = std::make_shared<Flags>();
  AddModel(*verb, flags->model);
  AddInput(*verb, flags->input);
  AddGrafts(*verb, flags->grafts);
  AddRecords(*verb, flags->records);
  AddOutput(*verb, flags->output);
  verb->callback([flags] { ScoreText(*flags); });
}

}  // namespace cambium::cli
