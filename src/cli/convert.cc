#include "families/convert.h"

#include <charconv>
#include <filesystem>
#include <memory>
#include <optional>

#include "cli/options.h"
#include "cli/progress.h"
#include "cli/verbs.h"
#include "grafts/grafts.h"
#include "grafts/lora.h"
#include "grafts/mtp.h"
#include "io/atomic_file.h"
#include "io/model_cache.h"
#include "io/quantize_model.h"

namespace cambium::cli {
namespace {

struct Flags {
  OutputFlags output;
  std::string in, out, base, type = "F32", dialect, split_size;
};

// Why GGUF and MLX, which know low-rank terms at linears alone, cannot hold a graft of another kind.
std::string WhyNotLora(const std::string& kind) {
  if (kind == "prefix") return "a prefix is keys and values in the cache, and no change of a linear";
  if (kind == "prompt") return "a prompt is rows before the text, and no change of a linear";
  if (kind == "ia3") return "IA3 scales every row of a matrix, which takes a term of full rank";
  if (kind == "vera")
    return "VeRA's linears share two matrices, for which they have no place; `merge` writes them into a model";
  if (IsHeads(kind)) return "draft heads change no linear";
  return "a bottleneck adapter has an activation between its matrices, and is no change of a linear";
}

// A model file with the module in it.
void ConvertMtp(const Flags& flags, MtpHeads& mtp) {
  if (!flags.out.ends_with(".gguf")) Fail(ErrorCode::kUsage, flags.out, ": a base with its module is a .gguf file");
  std::string base = ResolveModel(flags.base);
  std::optional<ScratchDirectory> scratch;
  if (std::filesystem::is_directory(base)) {
    scratch.emplace(flags.out);
    ConvertToGguf(base, scratch->Path("base.gguf"));
    base = scratch->Path("base.gguf");
  }
  mtp.SaveWithBase(base, flags.out);
  if (flags.output.json) return WriteJson({{"path", flags.out}, {"format", "gguf"}});
  Note(flags.output, "wrote " + flags.out);
}

// An adapter in another dialect; the base says how many heads the rows belong to.
void ConvertAdapter(const Flags& flags) {
  if (std::filesystem::exists(flags.out) && !std::filesystem::is_empty(flags.out)) {
    Fail(ErrorCode::kUsage, flags.out, ": is there already");
  }
  ThreadPool pool(DefaultThreads());
  Transformer model(LoadWeights(pool, ResolveModel(flags.base)), pool);
  const std::unique_ptr<Graft> graft = LoadGraft(flags.in, model.base());
  if (auto* const mtp = dynamic_cast<MtpHeads*>(graft.get()); mtp != nullptr) return ConvertMtp(flags, *mtp);
  const auto* const lora = dynamic_cast<const LoraGraft*>(graft.get());
  const std::string own = graft->kind() == "adapter" ? "adapterhub" : "peft";
  const std::string dialect = !flags.dialect.empty() ? flags.dialect : flags.out.ends_with(".gguf") ? "gguf" : own;
  if ((dialect == "gguf") != flags.out.ends_with(".gguf")) {
    Fail(ErrorCode::kUsage, flags.out, ": dialect ", dialect, dialect == "gguf" ? " wants a" : " is a directory, no",
         " .gguf file");
  }
  if (lora == nullptr && dialect != own) {
    const std::string why =
        dialect == "peft" || dialect == "adapterhub" ? "only " + own + "'s files hold one" : WhyNotLora(graft->kind());
    Fail(ErrorCode::kUsage, flags.in, ": ", graft->kind(), " cannot become dialect ", dialect, ": ", why);
  }
  if (lora != nullptr && dialect == "adapterhub") {
    Fail(ErrorCode::kUsage, flags.in,
         ": lora cannot become dialect adapterhub: only bottleneck adapters are written there");
  }
  dialect == "mlx" ? lora->SaveMlx(flags.out) : graft->Save(flags.out);
  if (flags.output.json) return WriteJson({{"path", flags.out}, {"format", dialect}});
  Note(flags.output, "wrote " + flags.out);
}

// "500M" or "2G" in bytes; 0 for none.
uint64_t SplitBytes(const std::string& text) {
  if (text.empty()) return 0;
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string unit = error == std::errc() ? std::string(end, text.data() + text.size()) : "?";
  const uint64_t scale = unit.empty() ? 1 : unit == "K" ? 1000 : unit == "M" ? 1000000 : unit == "G" ? 1000000000 : 0;
  if (scale == 0 || value == 0 || value > INT64_MAX / scale) {
    Fail(ErrorCode::kUsage, "--split-size is \"", text, "\", expected bytes, or a number with K, M or G, as 2G");
  }
  return value * scale;
}

void Convert(const Flags& flags) {
  if (!flags.base.empty()) return ConvertAdapter(flags);
  if (std::filesystem::exists(flags.in + "/adapter_config.json")) {
    Fail(ErrorCode::kUsage, flags.in, ": is an adapter; give --base MODEL, what it was trained on");
  }
  const std::string in = ResolveModel(flags.in);
  const bool to_gguf = std::filesystem::is_directory(in);
  const bool gguf_out = flags.out.ends_with(".gguf");
  if (to_gguf && !gguf_out) Fail(ErrorCode::kUsage, flags.out, ": a directory converts to a .gguf file");
  const uint64_t part_bytes = SplitBytes(flags.split_size);
  if (part_bytes > 0 && !gguf_out) Fail(ErrorCode::kUsage, flags.out, ": --split-size is for .gguf files");
  const DType dense = ParseQuantizeType(flags.type);
  if (IsQuantized(dense)) Fail(ErrorCode::kUsage, "--type ", flags.type, " is not one of F32, F16, BF16");
  std::string made = flags.out;
  {
    ProgressBar bar(flags.output.quiet);
    const auto progress = [&](uint64_t done, uint64_t total) { bar.Update("converting", done, total); };
    if (to_gguf) {
      made = ConvertToGguf(in, flags.out, progress, {.part_bytes = part_bytes});
    } else if (gguf_out) {
      made = RejoinGguf(in, flags.out, part_bytes, progress);
    } else {
      ConvertToHuggingFace(in, flags.out, dense, progress);
    }
  }
  if (flags.output.json) return WriteJson({{"path", made}, {"format", gguf_out ? "gguf" : "safetensors"}});
  Note(flags.output, "wrote " + made);
}

}  // namespace

void AddConvert(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand(
      "convert", "Turn a Hugging Face directory or adapter into a GGUF file, or back; split or join GGUF files");
  const auto flags = std::make_shared<Flags>();
  verb->add_option("MODEL,-m,--model", flags->in,
                   "A model directory, a .gguf file, or a cached name; with --base, an adapter")
      ->required();
  verb->add_option("OUT", flags->out, "A .gguf file, or the directory to make")->required();
  verb->add_option("--base", flags->base, "The model that the adapter MODEL was trained on");
  verb->add_option("--dialect", flags->dialect,
                   "What an adapter becomes (default: gguf by OUT's name, else its library's own)")
      ->check(CLI::IsMember({"peft", "mlx", "gguf", "adapterhub"}));
  verb->add_option("--type", flags->type, "F32, F16 or BF16: what quantised matrices become")->capture_default_str();
  verb->add_option("--split-size", flags->split_size, "Write a GGUF model in parts of at most this size: 2G or 500M");
  AddOutput(*verb, flags->output);
  verb->callback([flags] { Convert(*flags); });
}

}  // namespace cambium::cli
