#include "train/dataset.h"

#include <algorithm>
#include <cctype>
#include <numeric>

#include "base/random.h"
#include "cambium/error.h"
#include "io/json_lines.h"
#include "io/mapped_file.h"
#include "io/sha256.h"
#include "io/unicode.h"
#include "train/example.h"

namespace cambium {
namespace {

constexpr std::string_view kFormats[] = {"auto", "chat", "completions", "text", "alpaca", "sharegpt", "ids", "plain"};

bool IsBlank(std::string_view line) {
  return std::all_of(line.begin(), line.end(), [](unsigned char c) { return std::isspace(c) != 0; });
}

// Collects examples, their losses and the bad records.
class Collector {
 public:
  Collector(const std::string& path, const Tokenizer& tokenizer, const DatasetOptions& options)
      : path_(path), options_(options), maker_(tokenizer, options) {}

  void AddFile(const std::string& path) {
    JsonLines lines(path, static_cast<size_t>(options_.max_line_bytes));
    for (bool more = true; more;) {
      try {
        more = lines.Next();
      } catch (const Error& error) {
        Refuse(error);
        continue;
      }
      if (more) AddRecord(lines.record(), lines.line());
    }
  }
  void AddRecord(const nlohmann::ordered_json& record, int64_t number) {
    DatasetReport counted = data_.report;
    try {
      Example example = Make(record, counted);
      example.line = number;
      data_.report = counted;
      Keep(std::move(example));
    } catch (const Error& error) {
      Refuse(Error(error.code(), path_ + ": line " + std::to_string(number) + ": " + error.what()));
    }
  }
  // A line of plain text that is a prompt.
  void AddPrompt(std::string_view line, int64_t number) {
    nlohmann::ordered_json record;
    record["prompt"] = line;
    AddRecord(record, number);
  }
  // Plain text: pieces of max_tokens, every one trained.
  void AddText(std::string_view text) {
    Example whole = maker_.FromText(text, true, data_.report);
    const int64_t size = static_cast<int64_t>(whole.ids.size());
    for (int64_t begin = 0; begin < size; begin += options_.max_tokens) {
      const int64_t end = std::min(size, begin + options_.max_tokens);
      Example piece;
      piece.line = 1;
      piece.ids.assign(whole.ids.begin() + begin, whole.ids.begin() + end);
      piece.trained.assign(whole.trained.begin() + begin, whole.trained.begin() + end);
      piece.trained[0] = 0;
      Keep(std::move(piece));
    }
  }

  Dataset Finish() {
    if (data_.examples.empty()) {
      const DatasetReport& r = data_.report;
      Fail(ErrorCode::kData, path_, ": nothing to train on: ", r.without_targets,
           " examples have no trained token within ", options_.max_tokens, " tokens, ", r.skipped, " lines are bad",
           r.first_skipped.empty() ? "" : " (" + r.first_skipped + ")");
    }
    return std::move(data_);
  }

 private:
  Example Make(const nlohmann::ordered_json& record, DatasetReport& report) const {
    if (!options_.prompts) return maker_.FromRecord(record, report);
    Example prompt = maker_.PromptOf(record);
    if (static_cast<int64_t>(prompt.ids.size()) >= options_.max_tokens) {
      Fail(ErrorCode::kData, "the prompt has ", prompt.ids.size(), " tokens, a sequence of ", options_.max_tokens,
           " leaves no room for an answer");
    }
    return prompt;
  }

  // A bad line is the end, or with skip_bad counted.
  void Refuse(const Error& error) {
    if (!options_.skip_bad || error.code() != ErrorCode::kData) throw error;
    if (data_.report.skipped++ == 0) data_.report.first_skipped = error.what();
  }

  void Keep(Example example) {
    DatasetReport& report = data_.report;
    const size_t limit = static_cast<size_t>(options_.max_tokens);
    if (example.ids.size() > limit) {
      ++report.truncated_examples;
      report.truncated_tokens += static_cast<int64_t>(example.ids.size() - limit);
      example.ids.resize(limit);
      example.trained.resize(limit);
    }
    const int64_t targets = example.targets();
    if (targets == 0 && !options_.prompts) {
      ++report.without_targets;
      return;
    }
    ++report.examples;
    report.tokens += static_cast<int64_t>(example.ids.size());
    report.trained_tokens += targets;
    data_.examples.push_back(std::move(example));
  }

  const std::string& path_;
  const DatasetOptions& options_;
  ExampleMaker maker_;
  Dataset data_;
};

void CheckUtf8(const std::string& path, std::string_view text) {
  int64_t line = 1;
  const char* const end = text.data() + text.size();
  for (const char* at = text.data(); at < end;) {
    const CodePoint c = DecodeUtf8(at, end);
    if (!c.valid || c.value == 0) {
      Fail(ErrorCode::kData, path, ": line ", line, ": not a text: byte ", static_cast<int>(static_cast<uint8_t>(*at)),
           " at offset ", at - text.data());
    }
    line += *at == '\n';
    at += c.length;
  }
}

}  // namespace

int64_t Example::targets() const { return std::accumulate(trained.begin(), trained.end(), int64_t{0}); }

std::string Fingerprint(std::span<const Example> examples) {
  Sha256 hash;
  for (const Example& example : examples) {
    const int64_t size = static_cast<int64_t>(example.ids.size());
    hash.Update({reinterpret_cast<const uint8_t*>(&size), sizeof(size)});
    hash.Update({reinterpret_cast<const uint8_t*>(example.ids.data()), example.ids.size() * sizeof(int32_t)});
    hash.Update(example.trained);
  }
  return hash.HexDigest();
}

Dataset LoadDataset(const std::string& path, const Tokenizer& tokenizer, const DatasetOptions& options) {
  if (std::find(std::begin(kFormats), std::end(kFormats), options.format) == std::end(kFormats)) {
    Fail(ErrorCode::kUsage, "format is \"", options.format,
         "\", expected auto, chat, completions, text, alpaca, sharegpt, ids or plain");
  }
  if (options.max_tokens < 2)
    Fail(ErrorCode::kUsage, "sequence length is ", options.max_tokens, ", expected at least 2");
  const MappedFile file(path);
  std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) Fail(ErrorCode::kData, path, ": the file is empty");

  Collector collector(path, tokenizer, options);
  const bool json = text[first] == '{' || text[first] == '[' || path.ends_with(".jsonl") || path.ends_with(".json") ||
                    JsonLines::IsTable(path);
  const bool plain = options.format == "plain" || (options.format == "auto" && !json);
  if (plain) CheckUtf8(path, text);
  if (!plain) {
    collector.AddFile(path);
  } else if (!options.prompts) {
    collector.AddText(text);
  } else {
    int64_t number = 0;
    while (!text.empty()) {
      const size_t end = std::min(text.find('\n'), text.size());
      std::string_view line = text.substr(0, end);
      text.remove_prefix(std::min(end + 1, text.size()));
      if (line.ends_with('\r')) line.remove_suffix(1);
      ++number;
      if (!IsBlank(line)) collector.AddPrompt(line, number);
    }
  }
  file.CheckIntact();
  return collector.Finish();
}

Dataset SplitValidation(Dataset& data, double share, uint64_t seed) {
  const int64_t count = static_cast<int64_t>(data.examples.size());
  if (!(share > 0 && share < 1)) Fail(ErrorCode::kUsage, "validation share is ", share, ", expected between 0 and 1");
  if (count < 2) Fail(ErrorCode::kUsage, "a validation split needs 2 examples, the data has ", count);
  const int64_t wanted = std::clamp<int64_t>(static_cast<int64_t>(share * static_cast<double>(count)), 1, count - 1);
  // The examples with the smallest draws.
  const Philox noise(seed);
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    constexpr uint64_t kStream = 0x73706c6974;  // apart from the shuffle's draws
    return noise(static_cast<uint64_t>(a), kStream) < noise(static_cast<uint64_t>(b), kStream);
  });
  std::vector<uint8_t> chosen(static_cast<size_t>(count));
  for (int64_t i = 0; i < wanted; ++i) chosen[static_cast<size_t>(order[static_cast<size_t>(i)])] = 1;

  Dataset train, valid;
  train.report = data.report;
  for (Dataset* part : {&train, &valid}) part->report.examples = part->report.tokens = part->report.trained_tokens = 0;
  for (size_t i = 0; i < chosen.size(); ++i) {
    Dataset& part = chosen[i] ? valid : train;
    ++part.report.examples;
    part.report.tokens += static_cast<int64_t>(data.examples[i].ids.size());
    part.report.trained_tokens += data.examples[i].targets();
    part.examples.push_back(std::move(data.examples[i]));
  }
  data = std::move(train);
  return valid;
}

}  // namespace cambium
