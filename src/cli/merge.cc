#include "grafts/merge.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <memory>

#include "base/isa.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/verbs.h"
#include "grafts/grafts.h"
#include "grafts/lora.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "io/model_cache.h"
#include "io/quantize_model.h"
#include "io/tokenizer.h"

namespace cambium::cli {
namespace {

namespace fs = std::filesystem;

struct Flags {
  OutputFlags output;
  std::string model, out, type, text;
  std::vector<std::string> grafts;
  bool adapter = false, compare = false, force = false;
  int64_t rank = 0;
  double threshold = 0.1;
  int threads = 0;
};

// What the two models are compared on where --text gives nothing better.
constexpr std::string_view kProbe =
    "The gardener cut a slanting wedge from the young branch and set it into the cleft of the old trunk, so that the "
    "two "
    "layers of cambium met. Then she bound the joint with bast, sealed it with wax and wrote the date on a label: "
    "12 April 1893. \"How long before it takes?\" asked the boy. Three weeks, she said, if the nights stay mild. "
    "1. Choose healthy wood. 2. Keep the knife clean. 3. Wait. def graft(stock, scion): return stock + scion\n";

struct Merge {
  explicit Merge(const Flags& f)
      : flags(f),
        path(ResolveModel(f.model)),
        pool(f.threads > 0 ? f.threads : DefaultThreads()),
        model(LoadWeights(pool, path), pool) {
    for (const std::string& text : flags.grafts) {
      const GraftSpec spec = ParseGraftSpec(text);
      if (std::ranges::find(paths, spec.path) != paths.end()) {
        Fail(ErrorCode::kUsage, "--graft ", spec.path, ": given twice; give it once, with the sum of the scales");
      }
      paths.push_back(spec.path);
      owned.push_back(LoadGraft(spec.path, model.base(), spec.scale));
      grafts.push_back(owned.back().get());
    }
  }

  void Combine() {
    std::vector<const LoraGraft*> parts;
    for (const Graft* graft : grafts) {
      parts.push_back(dynamic_cast<const LoraGraft*>(graft));
      if (parts.back() == nullptr)
        Fail(ErrorCode::kUsage, "--adapter adds LoRA adapters, not a graft of kind ", graft->kind());
    }
    double kept = 1;
    LoraGraft::Combine(parts, model.base(), flags.rank, &kept)->Save(flags.out);
    if (flags.output.json) return WriteJson({{"path", flags.out}, {"kept", kept}});
    Note(flags.output,
         fmt::format("{}: the sum of {} adapters, {}", flags.out, parts.size(),
                     flags.rank > 0 ? fmt::format("{:.4f} of its energy in rank {}", kept, flags.rank) : "exact"));
    Next(flags.output, "cambium generate " + Word(flags.model) + " --graft " + Word(flags.out) + " -p TEXT");
  }

  void Write() {
    const Tokenizer tokenizer = LoadTokenizer(path);
    std::vector<int32_t> ids = tokenizer.Encode(flags.text.empty() ? kProbe : ReadTextFile(flags.text), true, false);
    if (ids.empty()) Fail(ErrorCode::kUsage, flags.text, ": the text is empty");
    ids.resize(std::min<size_t>(ids.size(), static_cast<size_t>(std::min<int64_t>(256, model.config().context))));
    wanted = ExactLogits(model, grafts, ids);
    effect = Compare(wanted.view, ExactLogits(model, {}, ids).view);
    if (!std::isfinite(effect.rms)) {
      Fail(ErrorCode::kRuntime, path, ": the model's logits are not finite; `cambium inspect --check` looks for NaN");
    }
    const std::string made = flags.out.ends_with(".gguf") ? "model.gguf" : "model";
    Note(flags.output,
         fmt::format("{:<10} largest logit difference {:8.4f}, rms {:.4f}", "the grafts", effect.largest, effect.rms));

    if (flags.compare) {
      for (const DType type :
           {DType::kF32, DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_K, DType::kQ4_1, DType::kQ4_0}) {
        if (!flags.out.ends_with(".gguf") && IsQuantized(type)) continue;
        const ScratchDirectory trial(flags.out);
        Measure(type, trial.Path(made), ids);
      }
    }
    const ScratchDirectory scratch(flags.out);
    std::optional<DType> type;
    if (!flags.type.empty()) type = ParseQuantizeType(flags.type);
    const LogitDifference damage = Measure(type, scratch.Path(made), ids);
    // Encoding again loses what is smaller than a step of the type: the merged model must be nearer to what was asked
    // for than the base is, by the factor of the threshold.
    if (damage.rms > flags.threshold * effect.rms && !flags.force) {
      Fail(ErrorCode::kData, flags.out, ": not written: merging would lose ",
           fmt::format("{:.0f}", 100 * damage.rms / effect.rms), " % of what the grafts change (at most ",
           fmt::format("{:g}", 100 * flags.threshold), " %, --threshold); ", Wider(type, made, ids));
    }
    std::error_code error;
    fs::rename(scratch.Path(made), flags.out, error);
    if (error) Fail(ErrorCode::kResource, flags.out, ": cannot be put in place: ", error.message());
    if (flags.output.json) {
      WriteJson(
          {{"path", flags.out}, {"effect", {{"largest", effect.largest}, {"rms", effect.rms}}}, {"types", measured}});
    } else {
      Note(flags.output, "wrote " + flags.out);
      Next(flags.output, "cambium run " + Word(flags.out));
    }
  }

  // What to do where `type` loses too much: the narrowest wider type that keeps enough, measured.
  std::string Wider(std::optional<DType> type, const std::string& made, std::span<const int32_t> ids) {
    for (const DType wider : {DType::kQ8_0, DType::kF16, DType::kF32}) {
      const bool no_wider = type && Info(wider).bytes * Info(*type).block <= Info(*type).bytes * Info(wider).block;
      if (no_wider || (!flags.out.ends_with(".gguf") && IsQuantized(wider))) continue;
      const ScratchDirectory trial(flags.out);
      const double lost = Measure(wider, trial.Path(made), ids).rms / effect.rms;
      if (lost > flags.threshold) continue;
      return fmt::format("--type {} would lose {:.1f} %", Info(wider).name, 100 * lost);
    }
    return "--force writes it all the same";
  }

  // Writes, loads what was written, and prints how far its logits are from those of base and grafts.
  LogitDifference Measure(std::optional<DType> type, const std::string& to, std::span<const int32_t> ids) {
    {
      ProgressBar bar(flags.output.quiet);
      WriteMerged(model.base(), grafts, path, to, type,
                  [&](uint64_t done, uint64_t total) { bar.Update("merging", done, total); });
    }
    Transformer merged(LoadWeights(pool, to), pool);
    const LogitDifference damage = Compare(ExactLogits(merged, {}, ids).view, wanted.view);
    const std::string name = type ? std::string(Info(*type).name) : "as it was";
    const double share = effect.rms > 0 ? damage.rms / effect.rms : damage.rms > 0 ? INFINITY : 0;
    Note(flags.output,
         fmt::format("{:<10} largest logit difference {:8.4f}, rms {:.4f}: {:.2f} % of the grafts' change", name,
                     damage.largest, damage.rms, 100 * share));
    measured.push_back({{"type", name}, {"largest", damage.largest}, {"rms", damage.rms}, {"share", share}});
    return damage;
  }

  const Flags& flags;
  std::string path;
  ThreadPool pool;
  Transformer model;
  std::vector<std::unique_ptr<Graft>> owned;
  std::vector<Graft*> grafts;
  std::vector<std::string> paths;  // of the grafts
  OwnedTensor wanted;              // logits of base and grafts
  LogitDifference effect;
  nlohmann::ordered_json measured = nlohmann::ordered_json::array();
};

void RunMerge(const Flags& flags) {
  if (flags.grafts.empty()) Fail(ErrorCode::kUsage, "--graft is required: what is merged");
  CheckThreads(flags.threads);
  CheckRange("--threshold", flags.threshold, 0, 1e9);
  CheckRange("--rank", static_cast<double>(flags.rank), 0, 1 << 20);
  if (flags.rank > 0 && !flags.adapter) Fail(ErrorCode::kUsage, "--rank goes with --adapter");
  if (flags.adapter && !flags.type.empty()) Fail(ErrorCode::kUsage, "--type does not go with --adapter");
  const std::string path = ResolveModel(flags.model);
  if (fs::exists(flags.out) &&
      (fs::equivalent(flags.out, path) || (fs::is_directory(flags.out) && !fs::is_empty(flags.out)))) {
    Fail(ErrorCode::kUsage, "-o ", flags.out, ": is there already");
  }
  if (!flags.type.empty()) ParseQuantizeType(flags.type);
  ApplyIsaFromEnv();
  Merge merge(flags);
  flags.adapter ? merge.Combine() : merge.Write();
}

}  // namespace

void AddMerge(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("merge", "Write a model with adapters in its weights, or add adapters up");
  const auto flags = std::make_shared<Flags>();
  AddModelName(*verb, flags->model);
  AddGrafts(*verb, flags->grafts);
  verb->add_option("-o,--output", flags->out, "A .gguf file, or the Hugging Face directory to make")->required();
  verb->add_option("--type", flags->type, "Q8_0, Q4_0, Q4_1, Q4_K, F16, BF16 or F32 (default: what each matrix was)");
  verb->add_flag("--compare", flags->compare, "Measure every type that can be written");
  verb->add_option("--threshold", flags->threshold,
                   "Refuse where more than this share of the adapters' change of the logits is lost")
      ->capture_default_str();
  verb->add_flag("--force", flags->force, "Write it all the same");
  verb->add_option("--text", flags->text, "Compare on this text's first 256 tokens");
  verb->add_flag("--adapter", flags->adapter, "Write the sum as an adapter: a PEFT directory, or a .gguf adapter");
  verb->add_option("--rank", flags->rank, "Cut that sum to this rank by its singular values (0: exact)");
  verb->add_option("-t,--threads", flags->threads, "Threads (0: every core that may be used)")
      ->envname("CAMBIUM_THREADS");
  AddOutput(*verb, flags->output);
  verb->callback([flags] { RunMerge(*flags); });
}

}  // namespace cambium::cli
