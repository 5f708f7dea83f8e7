// cambium corpus build FILES -o INDEX: a retrieval index for --draft corpus.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>

#include "cli/options.h"
#include "cli/verbs.h"
#include "io/json_lines.h"
#include "io/message_forms.h"
#include "io/model_cache.h"
#include "io/token_index.h"

namespace cambium::cli {
namespace {

struct Flags {
  std::string model, out;
  std::vector<std::string> files;
  bool append = false, yes = false;
  OutputFlags output;
};

// Documents of a file: of a jsonl each line's text ("text", else every string in "messages" or at the top), else the
// paragraphs' whole file.
std::vector<std::string> Documents(const std::string& path) {
  if (std::filesystem::is_directory(path)) Fail(ErrorCode::kData, path, ": is a directory, expected a file");
  if (!path.ends_with(".jsonl")) {  // which may be a pipe
    std::ifstream file(path, std::ios::binary);
    if (!file) Fail(ErrorCode::kData, path, ": cannot be opened");
    return {std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>())};
  }
  std::vector<std::string> documents;
  for (JsonLines lines(path); lines.Next();) {
    const nlohmann::ordered_json& record = lines.record();
    if (!record.is_object()) lines.Bad("a record is ", record.type_name(), ", expected object");
    std::string text;
    if (const auto messages = record.find("messages"); messages != record.end()) {
      try {
        CheckMessages(*messages);
      } catch (const Error& error) {
        lines.Bad(error.what());
      }
      for (const auto& message : *messages) text += ContentText(message, "message") + "\n";
    } else {
      for (const auto& [key, value] : record.items()) {
        if (value.is_string()) text += value.get<std::string>() + "\n";
      }
    }
    if (!text.empty()) documents.push_back(std::move(text));
  }
  return documents;
}

void Build(const Flags& flags) {
  if (!flags.append) RequireOverwrite(flags.out, flags.yes);
  const Tokenizer tokenizer = LoadTokenizer(ResolveModel(flags.model));
  std::vector<std::vector<int32_t>> documents;
  for (const std::string& path : flags.files) {
    for (const std::string& text : Documents(path)) {
      documents.push_back(tokenizer.Encode(text, false, false));
    }
  }
  const bool merge = flags.append && std::filesystem::exists(flags.out);
  WriteTokenIndex(flags.out, tokenizer, documents, merge ? flags.out : "");
  const TokenIndex index(flags.out);
  if (flags.output.json) {
    WriteJson({{"index", flags.out}, {"documents", documents.size()}, {"tokens", index.size()}});
  } else {
    Note(flags.output, flags.out + ": " + std::to_string(documents.size()) + " documents, " +
                           std::to_string(index.size()) + " tokens in all");
    Next(flags.output,
         "cambium generate " + Word(flags.model) + " --draft " + Word("corpus:index=" + flags.out) + " -p TEXT");
  }
}

}  // namespace

void AddCorpus(CLI::App& app) {
  CLI::App* corpus = app.add_subcommand("corpus", "Retrieval indexes for --draft corpus");
  corpus->require_subcommand(1);
  CLI::App* build = corpus->add_subcommand("build", "Index text files (plain, or jsonl by document)");
  auto flags = std::make_shared<Flags>();
  build->add_option("FILES", flags->files, "Text or jsonl files")->required();
  build->add_option("-o,--out", flags->out, "The index to write")->required();
  build->add_option("-m,--model", flags->model, "The model whose vocabulary it has")->default_val("smollm2");
  build->add_flag("--append", flags->append, "Merge into the index that is there");
  AddYes(*build, flags->yes);
  AddOutput(*build, flags->output);
  build->callback([flags] { Build(*flags); });
}

}  // namespace cambium::cli
