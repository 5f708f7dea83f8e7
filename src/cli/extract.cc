#include "grafts/extract.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>

#include "base/isa.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "grafts/delta.h"
#include "grafts/merge.h"
#include "io/atomic_file.h"
#include "io/chart.h"
#include "io/json.h"
#include "io/model_cache.h"
#include "io/tokenizer.h"

namespace cambium::cli {
namespace {

namespace fs = std::filesystem;

struct Flags {
  OutputFlags output;
  std::string base, tuned, out, data;
  int64_t rank = 0, tokens = 1024;
  double energy = 0.99;
  int threads = 0;
};

// Mean -log p of each token but a piece's first, in pieces of 256.
double MeanLoss(Transformer& model, std::span<Graft* const> grafts, std::span<const int32_t> ids) {
  constexpr size_t kPiece = 256;
  double sum = 0;
  size_t count = 0;
  for (size_t begin = 0; begin + 1 < ids.size(); begin += kPiece) {
    const auto piece = ids.subspan(begin, std::min(kPiece, ids.size() - begin));
    if (piece.size() < 2) break;
    const OwnedTensor logits = ExactLogits(model, grafts, piece);
    std::vector<int32_t> targets(piece.begin() + 1, piece.end());
    std::vector<float> log_probs(targets.size());
    TargetLogProbs(model.pool(), logits.view.Rows(0, static_cast<int64_t>(targets.size())), targets, log_probs);
    for (const float value : log_probs) sum -= double{value};
    count += targets.size();
  }
  return sum / static_cast<double>(count);
}

struct Row {
  int64_t rank;
  double energy;
  std::optional<double> loss;
};

void WriteTable(const Flags& flags, const std::vector<Row>& rows, std::optional<double> tuned_loss) {
  std::string csv = "rank,energy,loss\n";
  Chart energy = {"rank", {{"share of the energy", "#2171b5", 2, true, {}}}, true}, loss = energy;
  loss.series = {{"held-out loss", "#d94801", 2, true, {}}, {"of the tuned model", "#888888", 1, false, {}}};
  for (const Row& row : rows) {
    csv += fmt::format("{},{:.6f},{}\n", row.rank, row.energy, row.loss ? fmt::format("{:.6f}", *row.loss) : "");
    if (row.rank == 0) continue;
    const double x = static_cast<double>(row.rank);
    energy.series[0].points.emplace_back(x, row.energy);
    if (!row.loss) continue;
    loss.series[0].points.emplace_back(x, *row.loss);
    loss.series[1].points.emplace_back(x, *tuned_loss);
  }
  std::vector<Chart> charts = {energy};
  if (tuned_loss) charts.push_back(loss);
  for (const auto& [name, text] : {std::pair("/ranks.csv", csv), std::pair("/ranks.svg", ChartSvg(charts))}) {
    AtomicFile file(flags.out + name);
    file.Write(text);
    file.Commit();
  }
}

void RunExtract(const Flags& flags) {
  CheckThreads(flags.threads);
  CheckRange("--rank", static_cast<double>(flags.rank), 0, 1 << 20);
  CheckRange("--energy", flags.energy, 1e-9, 1);
  CheckRange("--tokens", static_cast<double>(flags.tokens), 2, 1 << 24);
  if (fs::exists(flags.out) && !fs::is_empty(flags.out))
    Fail(ErrorCode::kUsage, "-o ", flags.out, ": is there already");
  ApplyIsaFromEnv();
  const std::string base_path = ResolveModel(flags.base), tuned_path = ResolveModel(flags.tuned);
  ThreadPool pool(flags.threads > 0 ? flags.threads : DefaultThreads());
  std::vector<int32_t> ids;
  if (!flags.data.empty()) {
    ids = LoadTokenizer(base_path).Encode(ReadTextFile(flags.data), true, false);
    ids.resize(std::min(ids.size(), static_cast<size_t>(flags.tokens)));
    if (ids.size() < 2) Fail(ErrorCode::kData, flags.data, ": holds fewer than two tokens");
  }
  Transformer base(LoadWeights(pool, base_path), pool), tuned(LoadWeights(pool, tuned_path), pool);
  if (base.config().has_encoder())
    Fail(ErrorCode::kUsage, base_path, ": a model with an encoder has no graft to extract");
  const WeightDelta delta(base.base(), tuned.weights(), flags.rank, flags.energy);
  MakeDirectories(flags.out);
  std::vector<TensorToWrite> whole = delta.Whole();
  if (whole.empty() && delta.spectra().empty())
    Fail(ErrorCode::kData, flags.tuned, ": the same weights as ", flags.base);
  const bool has_whole = !whole.empty();
  if (const auto terms = delta.Terms(0, base_path); terms) terms->Save(flags.out);
  if (has_whole) WriteSafetensors(flags.out + "/whole.safetensors", std::move(whole));

  std::vector<Row> rows;
  std::vector<int64_t> ranks = {0};
  for (int64_t rank = 1; rank < delta.max_rank(); rank *= 2) ranks.push_back(rank);
  if (delta.max_rank() > 0) ranks.push_back(delta.max_rank());
  std::optional<double> tuned_loss;
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  if (!ids.empty()) {
    tuned_loss = MeanLoss(tuned, {}, ids);
    Note(flags.output, fmt::format("held-out loss: base {:.4f}, tuned {:.4f}", MeanLoss(base, {}, ids), *tuned_loss));
  }
  Note(flags.output, fmt::format("{:>6}  {:>8}  {}", "rank", "energy", ids.empty() ? "" : "held-out loss"));
  for (const int64_t rank : ranks) {
    Row& row = rows.emplace_back(Row{rank, delta.EnergyWithin(rank), {}});
    if (!ids.empty()) {
      std::unique_ptr<Graft> graft;
      if (rank > 0) graft = delta.Terms(rank, base_path);
      if (has_whole) {
        graft = std::make_unique<DeltaGraft>(std::move(graft), flags.out + "/whole.safetensors", base.base(), 1.0f);
      }
      std::vector<Graft*> grafts;
      if (graft) grafts.push_back(graft.get());
      row.loss = MeanLoss(base, grafts, ids);
    }
    json.push_back({{"rank", rank}, {"energy", row.energy}, {"loss", row.loss ? nlohmann::json(*row.loss) : nullptr}});
    Note(flags.output,
         fmt::format("{:>6}  {:>8.4f}  {}", rank, row.energy, row.loss ? fmt::format("{:.4f}", *row.loss) : ""));
  }
  WriteTable(flags, rows, tuned_loss);
  if (flags.output.json) return WriteJson({{"path", flags.out}, {"ranks", json}});
  Note(flags.output,
       fmt::format("{}: {} linears in ranks up to {}{}; ranks.csv and ranks.svg", flags.out, delta.spectra().size(),
                   delta.max_rank(), has_whole ? ", norms and embeddings whole" : ""));
}

}  // namespace

void AddExtract(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("extract", "Write what fine-tuning changed as low-rank terms, by SVD");
  const auto flags = std::make_shared<Flags>();
  verb->add_option("BASE", flags->base, "The model before fine-tuning")->required();
  verb->add_option("TUNED", flags->tuned, "The model after it")->required();
  verb->add_option("-o,--output", flags->out, "Directory for the delta; --graft takes it")->required();
  verb->add_option("--energy", flags->energy, "Keep the fewest singular values with this share of each linear's energy")
      ->capture_default_str();
  verb->add_option("--rank", flags->rank, "Or this many of each linear (0: by energy)")->capture_default_str();
  verb->add_option("--data", flags->data, "A text: the loss on it at ranks 0, 1, 2, 4, ...");
  verb->add_option("--tokens", flags->tokens, "At most so many of its tokens")->capture_default_str();
  verb->add_option("-t,--threads", flags->threads, "Threads (0: every core that may be used)")
      ->envname("CAMBIUM_THREADS");
  AddOutput(*verb, flags->output);
  verb->callback([flags] { RunExtract(*flags); });
}

}  // namespace cambium::cli
