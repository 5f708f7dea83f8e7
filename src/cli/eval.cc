#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <sstream>

#include "cli/options.h"
#include "cli/verbs.h"
#include "engine/constraint_fields.h"
#include "engine/impl.h"
#include "io/json_lines.h"
#include "train/bleu.h"
#include "train/example.h"
#include "train/record.h"
#include "train/rouge.h"

namespace cambium::cli {
namespace {

struct Flags {
  OutputFlags output;
  ModelFlags model;
  InputFlags input;
  std::vector<std::string> grafts;
  std::string jsonl, bleu, rouge, references;
  bool stemmer = false;
  std::string field = "text";
  std::vector<std::string> ignored_fields;
  int64_t chunks = -1;
};

// The beginning-of-sequence token if the model wants one, else nothing.
std::vector<int32_t> Bos(const Model& model) { return model.Tokenize("", false, true); }

// As llama-perplexity: the text is cut into chunks of n tokens, the first of each replaced by BOS where the model has
// one; the targets at n/2 + 1 .. n - 1 of each chunk are scored.
void EvalText(const Flags& flags) {
  const Input input = ReadInput(flags.input);
  ModelFlags model = flags.model;
  if (model.engine.context == 0) model.engine.context = 512;
  Engine engine = LoadModel(model, flags.output);
  const std::vector<AdapterUse> adapters = Adapters().Load(engine.model(), flags.grafts);
  const int64_t size = model.engine.context;
  const std::vector<int32_t> ids = input.Ids(engine.model()), bos = Bos(engine.model());
  const auto available = static_cast<int64_t>(ids.size()) / size;
  if (available < 1 || size < 4) {
    Fail(ErrorCode::kUsage, "the text has ", ids.size(), " tokens, fewer than one chunk of ", size, " (-c)");
  }
  const int64_t chunks = flags.chunks > 0 ? std::min(flags.chunks, available) : available;

  double sum = 0, squares = 0;
  int64_t count = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    std::vector<int32_t> part(ids.begin() + chunk * size, ids.begin() + (chunk + 1) * size);
    if (!bos.empty()) part[0] = bos[0];
    const Score score = engine.ScoreIds(part, adapters);
    for (int64_t i = size / 2; i < size - 1; ++i) {
      const double loss = -score.logprobs[static_cast<size_t>(i)];
      sum += loss, squares += loss * loss, ++count;
    }
    Note(flags.output, fmt::format("chunk {} of {}: perplexity {:.4f}", chunk + 1, chunks,
                                   std::exp(sum / static_cast<double>(count))));
  }
  const double loss = sum / static_cast<double>(count);
  const double variance = squares / static_cast<double>(count) - loss * loss;
  const double error = std::exp(loss) * std::sqrt(std::max(variance, 0.0) / std::max<double>(1, count - 1));
  if (flags.output.json) {
    WriteJson({{"perplexity", std::exp(loss)},
               {"error", error},
               {"loss", loss},
               {"tokens", count},
               {"chunks", chunks},
               {"ctx_size", size}});
  } else {
    Write(fmt::format("perplexity {:.4f} +- {:.4f}  loss {:.6f}  tokens {}  chunks {} of {}\n", std::exp(loss), error,
                      loss, count, chunks, size));
  }
}

// Fields that say what a record's answer must be.
constexpr const char* kBinding[] = {"response_format", "structured_outputs", "json_schema", "regex", "choice",
                                    "grammar"};

// The text that such a field is about: the record's own, or its last message's.
std::string AnswerOf(const nlohmann::ordered_json& record, const std::string& field) {
  if (const auto text = record.find(field); text != record.end()) return text->get<std::string>();
  const auto messages = record.find("messages");
  if (messages == record.end() || !messages->is_array() || messages->empty() || !messages->back().is_object() ||
      !messages->back().contains("content") || !messages->back()["content"].is_string()) {
    Fail(ErrorCode::kData, "a schema needs a field ", field, ", or messages whose last has a text");
  }
  return messages->back()["content"].get<std::string>();
}

std::vector<int32_t> RecordIds(const Model::Impl& model, nlohmann::ordered_json record, const Flags& flags) {
  if (!record.is_object()) Fail(ErrorCode::kData, "a record is ", record.type_name(), ", expected object");
  if (const auto text = record.find(flags.field); text != record.end()) {
    if (!text->is_string())
      Fail(ErrorCode::kData, "field \"", flags.field, "\" is ", text->type_name(), ", expected string");
    return model.tokenizer.Encode(text->get_ref<const std::string&>(), true, flags.input.special);
  }
  for (const char* own : kBinding) record.erase(own);
  const Record read = RecordReader(model.dialogues, "auto", flags.ignored_fields).Read(record, true);
  if (read.kind == Record::Kind::kDialogue) return model.dialogues.Ids(read.messages, read.options);
  DatasetOptions options;
  options.ignored_fields = flags.ignored_fields;
  DatasetReport unused;
  return ExampleMaker(model.tokenizer, options).FromRecord(record, unused).ids;
}

// Mean loss over all tokens of all records; a record's first token is context only.
void EvalJsonl(const Flags& flags) {
  if (flags.input.text_option->count() > 0 || !flags.input.file.empty() || !flags.input.dash.empty() ||
      flags.input.ids_option->count() > 0) {
    Fail(ErrorCode::kUsage, "--jsonl cannot be used with -p, -f, - or --ids");
  }
  Engine engine = LoadModel(flags.model, flags.output);
  const std::vector<AdapterUse> adapters = Adapters().Load(engine.model(), flags.grafts);
  double sum = 0;
  int64_t tokens = 0, records = 0, bound = 0, kept = 0;
  for (JsonLines lines(flags.jsonl); lines.Next();) {
    std::vector<int32_t> ids;
    try {
      const nlohmann::ordered_json& record = lines.record();
      ids = RecordIds(*engine.model().shared(), record, flags);
      const auto binds = [&](const char* field) { return record.contains(field); };
      if (std::ranges::any_of(kBinding, binds)) {
        const auto keeps = Keeps(engine.model(), record, AnswerOf(record, flags.field));
        bound += keeps.has_value();
        kept += keeps.value_or(false);
        if (keeps == false) Note(flags.output, lines.where() + ": the answer does not keep to what is asked of it");
      }
    } catch (const Error& error) {
      throw Error(error.code(), lines.where() + ": " + error.what());
    }
    if (static_cast<int64_t>(ids.size()) > engine.context()) {
      lines.Bad(ids.size(), " tokens, more than the context of ", engine.context(), " (-c)");
    }
    ++records;
    if (ids.size() < 2) continue;
    const Score score = engine.ScoreIds(ids, adapters);
    for (const double logprob : score.logprobs) sum -= logprob;
    tokens += static_cast<int64_t>(score.logprobs.size());
  }
  if (tokens == 0) Fail(ErrorCode::kData, flags.jsonl, ": no tokens to score in ", records, " records");
  const double loss = sum / static_cast<double>(tokens);
  if (flags.output.json) {
    nlohmann::ordered_json answer = {
        {"loss", loss}, {"perplexity", std::exp(loss)}, {"tokens", tokens}, {"records", records}};
    if (bound > 0) answer.update({{"bound", bound}, {"kept", kept}});
    WriteJson(answer);
  } else {
    const std::string more = bound > 0 ? fmt::format("  kept to their schemas {} of {}", kept, bound) : "";
    Write(fmt::format("loss {:.6f}  perplexity {:.4f}  tokens {}  records {}{}\n", loss, std::exp(loss), tokens,
                      records, more));
  }
}

std::vector<std::string> Lines(const std::string& path) {
  std::istringstream text(ReadTextFile(path));
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) {
    if (line.ends_with('\r')) line.pop_back();
    lines.push_back(line);
  }
  return lines;
}

// A file of texts, one a line, and a file whose lines hold the references, between tabs.
struct Compared {
  std::vector<std::string> texts;
  std::vector<std::vector<std::string>> references;
};

Compared ReadCompared(const char* option, const std::string& path, const Flags& flags) {
  if (flags.references.empty()) Fail(ErrorCode::kUsage, option, " needs --references FILE");
  Compared compared{Lines(path), {}};
  auto& references = compared.references;
  for (const std::string& line : Lines(flags.references)) {
    std::istringstream parts(line);
    auto& own = references.emplace_back();
    for (std::string part; std::getline(parts, part, '\t');) {
      if (!part.empty()) own.push_back(part);
    }
    if (own.empty()) Fail(ErrorCode::kData, flags.references, ": line ", references.size(), " holds no reference");
  }
  if (compared.texts.empty() || compared.texts.size() != references.size()) {
    Fail(ErrorCode::kData, path, ": ", compared.texts.size(), " lines, ", flags.references, " has ", references.size());
  }
  return compared;
}

void EvalRouge(const Flags& flags) {
  const Compared compared = ReadCompared("--rouge", flags.rouge, flags);
  const Rouge rouge = MeanRouge(compared.texts, compared.references, flags.stemmer);
  const std::pair<const char*, RougeScore> scores[] = {
      {"rouge1", rouge.one}, {"rouge2", rouge.two}, {"rougeL", rouge.longest}};
  nlohmann::ordered_json json = {{"texts", compared.texts.size()}, {"stemmer", flags.stemmer}};
  std::string line;
  for (const auto& [name, score] : scores) {
    json[name] = {{"precision", score.precision}, {"recall", score.recall}, {"f", score.f}};
    line += fmt::format("{} {:.4f}  ", name, score.f);
  }
  if (flags.output.json) return WriteJson(json);
  Write(fmt::format("{}texts {}\n", line, compared.texts.size()));
}

void EvalBleu(const Flags& flags) {
  const Compared compared = ReadCompared("--bleu", flags.bleu, flags);
  const Bleu bleu = CorpusBleu(compared.texts, compared.references);
  if (flags.output.json) {
    WriteJson({{"bleu", bleu.score},
               {"precisions", bleu.precisions},
               {"brevity_penalty", bleu.brevity_penalty},
               {"words", bleu.words},
               {"reference_words", bleu.reference_words}});
  } else {
    Write(fmt::format("BLEU {:.2f}  {:.1f}/{:.1f}/{:.1f}/{:.1f}  brevity {:.3f}  words {}  references {}\n", bleu.score,
                      bleu.precisions[0], bleu.precisions[1], bleu.precisions[2], bleu.precisions[3],
                      bleu.brevity_penalty, bleu.words, bleu.reference_words));
  }
}

void Eval(const Flags& flags) {
  if (flags.stemmer && flags.rouge.empty()) Fail(ErrorCode::kUsage, "--stemmer needs --rouge");
  if (!flags.rouge.empty() && !flags.bleu.empty()) Fail(ErrorCode::kUsage, "--rouge and --bleu: one of them");
  if (!flags.rouge.empty()) return EvalRouge(flags);
  if (!flags.bleu.empty()) return EvalBleu(flags);
  if (flags.model.model.empty()) Fail(ErrorCode::kUsage, "MODEL is required");
  flags.jsonl.empty() ? EvalText(flags) : EvalJsonl(flags);
}

}  // namespace

void AddEval(CLI::App& app) {
  CLI::App* const verb =
      app.add_subcommand("eval", "Perplexity of a text in chunks, loss over a jsonl file, BLEU or ROUGE of texts");
  const auto flags = std::make_shared<Flags>();
  AddModel(*verb, flags->model);
  AddInput(*verb, flags->input);
  AddGrafts(*verb, flags->grafts);
  verb->add_option("--chunks", flags->chunks,
                   "Score the first chunks only (-1: all); a chunk has -c tokens, 512 by "
                   "default")
      ->capture_default_str();
  verb->add_option("--jsonl", flags->jsonl, "Score the records of this file, one JSON object a line");
  verb->add_option("--field", flags->field,
                   "The records' field that holds the text; without it, a dialogue as `train` takes it")
      ->capture_default_str();
  AddIgnoreFields(*verb, flags->ignored_fields);
  verb->get_option("MODEL")->required(false);
  verb->add_option("--bleu", flags->bleu, "BLEU of this file's texts, one a line, as sacrebleu computes it; no MODEL");
  verb->add_option("--rouge", flags->rouge,
                   "ROUGE-1, 2 and L of this file's texts, as rouge-score computes it; no MODEL");
  verb->add_flag("--stemmer", flags->stemmer, "With --rouge: compare the stems of words (Porter's)");
  verb->add_option("--references", flags->references, "The references of each line, between tabs");
  AddOutput(*verb, flags->output);
  verb->callback([flags] { Eval(*flags); });
}

}  // namespace cambium::cli
