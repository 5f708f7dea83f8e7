#include <fmt/format.h>

#include <memory>

#include "cli/options.h"
#include "cli/progress.h"
#include "cli/verbs.h"
#include "io/model_cache.h"
#include "io/quantize_model.h"

namespace cambium::cli {
namespace {

struct Flags {
  OutputFlags output;
  std::string in, out, type;
  bool requantize = false;
  int threads = 0;
};

void QuantizeFile(const Flags& flags) {
  const DType type = ParseQuantizeType(flags.type);
  CheckThreads(flags.threads);
  ThreadPool pool(flags.threads > 0 ? flags.threads : DefaultThreads());
  QuantizeReport report;
  {
    ProgressBar bar(flags.output.quiet);
    report = QuantizeModel(pool, ResolveModel(flags.in), flags.out, type, flags.requantize,
                           [&](uint64_t done, uint64_t total) { bar.Update("quantizing", done, total); });
  }
  if (flags.output.json) {
    WriteJson({{"path", flags.out},
               {"type", Info(type).name},
               {"converted", report.converted},
               {"fallback", report.fallback},
               {"bytes_in", report.bytes_in},
               {"bytes_out", report.bytes_out}});
    return;
  }
  Note(flags.output,
       fmt::format("{}: {} matrices as {}, {} in another type; {} -> {}", flags.out, report.converted, Info(type).name,
                   report.fallback, HumanBytes(report.bytes_in), HumanBytes(report.bytes_out)));
  Next(flags.output, "cambium run " + Word(flags.out));
}

}  // namespace

void AddQuantize(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("quantize", "Write a GGUF file again in a smaller type");
  const auto flags = std::make_shared<Flags>();
  verb->add_option("MODEL,-m,--model", flags->in, "A .gguf file or a cached name")->required();
  verb->add_option("OUT", flags->out, "The .gguf file to write")->required();
  verb->add_option("TYPE,--type", flags->type, "Q8_0, Q4_0, Q4_1, Q4_K, F16, BF16 or F32")->required();
  verb->add_flag("--allow-requantize", flags->requantize, "Accept a source that is quantised already");
  verb->add_option("-t,--threads", flags->threads, "Threads (0: every core that may be used)")
      ->envname("CAMBIUM_THREADS");
  AddOutput(*verb, flags->output);
  verb->callback([flags] { QuantizeFile(*flags); });
}

}  // namespace cambium::cli
