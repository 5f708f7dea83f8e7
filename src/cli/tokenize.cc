#include <fmt/format.h>

#include <memory>

#include "cli/options.h"
#include "cli/verbs.h"
#include "io/model_cache.h"
#include "io/tokenizer.h"

namespace cambium::cli {
namespace {

struct Flags {
  OutputFlags output;
  std::string model;
  InputFlags input;
  bool no_bos = false;
};

void Tokenize(const Flags& flags) {
  const Input input = ReadInput(flags.input);
  const Tokenizer tokenizer = LoadTokenizer(ResolveModel(flags.model));
  const std::vector<int32_t> ids =
      input.has_ids() ? input.ids : tokenizer.Encode(input.text, !flags.no_bos, input.special);
  const std::string text = tokenizer.Decode(ids);  // refuses ids outside the vocabulary
  if (flags.output.json) {
    auto pieces = nlohmann::ordered_json::array();
    for (const int32_t id : ids) pieces.push_back(tokenizer.Piece(id));
    WriteJson({{"ids", ids}, {"pieces", pieces}});
  } else if (input.has_ids()) {
    Write(text + "\n");
  } else {
    std::string lines;
    for (const int32_t id : ids) lines += fmt::format("{:6}  {}\n", id, Quoted(tokenizer.Piece(id)));
    Write(lines);
    Note(flags.output, fmt::format("{} tokens", ids.size()));
  }
}

}  // namespace

void AddTokenize(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("tokenize", "Turn a text into token ids, or ids into text");
  const auto flags = std::make_shared<Flags>();
  AddModelName(*verb, flags->model);
  AddInput(*verb, flags->input);
  verb->add_flag("--no-bos", flags->no_bos, "Leave out the beginning-of-sequence token");
  AddOutput(*verb, flags->output);
  verb->callback([flags] { Tokenize(*flags); });
}

}  // namespace cambium::cli
