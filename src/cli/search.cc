#include <algorithm>
#include <memory>
#include <tuple>

#include "base/parallel.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "io/json.h"
#include "io/json_lines.h"
#include "window/passages.h"

namespace cambium::cli {
namespace {

struct SearchFlags {
  OutputFlags output;
  std::vector<std::string> files, terms;
  std::string field;
  PassageOptions options;
  int threads = 0;
  bool merge = false;
};

struct Result {
  std::string file;
  int64_t line = 0;
  std::string text;
  int64_t bytes = 0;  // where they are not the text's: JSON holds no bytes that are not UTF-8
  int64_t size() const { return bytes > 0 ? bytes : static_cast<int64_t>(text.size()); }
};

std::string_view View(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

std::vector<Result> SearchText(const std::vector<MappedFile>& files, const SearchFlags& flags) {
  std::vector<std::string_view> corpus;
  for (const MappedFile& file : files) corpus.push_back(View(file));
  std::vector<Result> results;
  for (const Passage& p : FindPassages(corpus, flags.terms, flags.options)) {
    const std::string_view text = corpus[p.document];
    results.push_back({files[p.document].path(), 1 + CountLines(text.substr(0, p.begin)),
                       std::string(text.substr(p.begin, p.size()))});
  }
  return results;
}

// One record a line; a passage lies within one record's field.
std::vector<Result> SearchRecords(const std::string& path, const SearchFlags& flags) {
  const WordMatcher matcher(flags.terms, flags.options.ignore_case);
  const WordFinder finder(matcher);
  std::vector<Result> results;
  const auto keep_best = [&] {
    std::stable_sort(results.begin(), results.end(), [](auto& a, auto& b) { return a.size() < b.size(); });
    if (static_cast<int64_t>(results.size()) > flags.options.limit) results.resize(flags.options.limit);
  };
  for (JsonLines lines(path); lines.Next();) {
    const nlohmann::ordered_json& record = lines.record();
    const auto field = record.is_object() ? record.find(flags.field) : record.end();
    if (!record.is_object() || field == record.end() || !field->is_string()) {
      lines.Bad("field \"", flags.field, "\" is not a text");
    }
    const std::string& value = field->get_ref<const std::string&>();
    std::vector<Passage> found;
    MinimalPassages(value, finder, 0, static_cast<int64_t>(value.size()), flags.options.within,
                    [&](int64_t begin, int64_t stop) {
                      found.push_back({0, begin, stop});
                    });
    for (const Passage& p : ShortestPassages(std::move(found), flags.options.limit)) {
      results.push_back({path, lines.line(), value.substr(p.begin, p.size())});
    }
    if (static_cast<int64_t>(results.size()) > 16 * flags.options.limit) keep_best();
  }
  keep_best();
  return results;
}

// At a terminal a long passage is its beginning and its end.
std::string Shown(const std::string& text) {
  constexpr size_t kMost = 400, kSide = kMost / 2;
  if (!IsTerminal(stdout) || text.size() <= kMost) return text;
  size_t begin = kSide, end = text.size() - kSide;
  const auto inside = [&](size_t at) {
    return (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
  };  // of a code point
  while (inside(begin)) --begin;
  while (inside(end)) ++end;
  return text.substr(0, begin) + " ... " + text.substr(end);
}

// The passage on one line, the matcher's terms in bold where colour is wanted.
std::string Highlight(const std::string& text, const WordMatcher* matcher, bool color) {
  std::string shown;
  int64_t at = 0;
  ForEachWord(text, [&](int64_t begin, int64_t end) {
    if (!color || matcher == nullptr || matcher->Find(std::string_view(text).substr(begin, end - begin)) < 0) return;
    shown += text.substr(at, begin - at) + "\033[1;31m" + text.substr(begin, end - begin) + "\033[0m";
    at = end;
  });
  shown += text.substr(at);
  // Line ends and control characters of the corpus must not reach a terminal; ours begin with \033[.
  std::string safe;
  for (size_t i = 0; i < shown.size(); ++i) {
    const auto c = static_cast<unsigned char>(shown[i]);
    const bool ours =
        c == '\033' && color && (shown.compare(i, 7, "\033[1;31m") == 0 || shown.compare(i, 4, "\033[0m") == 0);
    safe += (c < 0x20 || c == 0x7F) && !ours ? ' ' : shown[i];
  }
  return safe;
}

// The best of them, which are in their order.
void Show(std::vector<Result> results, const SearchFlags& flags, const WordMatcher* matcher) {
  if (static_cast<int64_t>(results.size()) > flags.options.limit) results.resize(flags.options.limit);

  if (flags.output.json) {
    auto list = nlohmann::ordered_json::array();
    for (const Result& r : results) {
      list.push_back({{"file", r.file}, {"line", r.line}, {"bytes", r.size()}, {"text", r.text}});
    }
    return WriteJson(list);
  }
  const bool color = UseColor(stdout);
  for (const Result& r : results) {
    Write(r.file + ":" + std::to_string(r.line) + ": " + Highlight(Shown(r.text), matcher, color) + "\n");
  }
}

void RunSearch(const SearchFlags& given) {
  SearchFlags flags = given;
  flags.options.threads = flags.threads > 0 ? flags.threads : DefaultThreads();
  std::vector<MappedFile> texts;
  std::vector<std::string> records;
  const WordMatcher matcher(flags.terms, flags.options.ignore_case);
  for (const std::string& path : flags.files) {
    const bool jsonl = !flags.field.empty() || path.ends_with(".jsonl");
    if (jsonl) {
      records.push_back(path);
    } else {
      texts.emplace_back(path);
    }
  }
  if (flags.field.empty()) flags.field = "text";
  std::vector<Result> results = SearchText(texts, flags);
  for (const MappedFile& file : texts) file.CheckIntact();
  for (const std::string& path : records) {
    for (Result& result : SearchRecords(path, flags)) results.push_back(std::move(result));
  }
  const auto place = [&](const Result& r) { return std::find(flags.files.begin(), flags.files.end(), r.file); };
  std::stable_sort(results.begin(), results.end(), [&](const Result& a, const Result& b) {
    return std::tuple(a.size(), place(a), a.line) < std::tuple(b.size(), place(b), b.line);
  });
  Show(std::move(results), flags, &matcher);
}

// What searches of parts of a corpus found, each with --json, as one search of all of it has it, where the parts come
// in the order of their files.
void Merge(const SearchFlags& flags) {
  std::vector<Result> results;
  for (const std::string& path : flags.files) {
    const nlohmann::json found = ParseJson(ReadTextFile(path), path);
    try {
      for (const nlohmann::json& one : found) {
        results.push_back({one.at("file").get<std::string>(), one.at("line").get<int64_t>(),
                           one.at("text").get<std::string>(), one.at("bytes").get<int64_t>()});
      }
    } catch (const nlohmann::json::exception&) {
      Fail(ErrorCode::kData, path, ": not what `search --json` prints");
    }
  }
  std::stable_sort(results.begin(), results.end(), [](auto& a, auto& b) { return a.size() < b.size(); });
  Show(std::move(results), flags, nullptr);
}

void AddOptions(CLI::App& verb, SearchFlags& flags) {
  verb.add_option("-n,--limit", flags.options.limit, "passages wanted")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--within", flags.options.within, "the longest passage, in bytes")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--field", flags.field, "treat every file as JSON lines and search this field (.jsonl: text)");
  verb.add_flag("-i,--ignore-case", flags.options.ignore_case, "upper and lower case are the same");
  verb.add_option("--threads", flags.threads, "threads; 0 takes all")->check(CLI::Range(0, 1024));
  verb.add_flag("--merge", flags.merge,
                "FILES are what `search --json` found in parts of a corpus, in their order: the best of all");
  AddOutput(verb, flags.output);
}

}  // namespace

void AddSearch(CLI::App& app) {
  auto flags = std::make_shared<SearchFlags>();
  CLI::App* verb = app.add_subcommand("search", "Find the shortest passages of FILES that hold all TERMS");
  verb->footer(
      "cambium search [OPTIONS] FILES... -- TERMS...\n"
      "FILES are plain text or .jsonl; a TERM is one word, and one given twice must occur twice.");
  AddOptions(*verb, *flags);
  // CLI11 drops "--" between two lists of arguments. So all from the first file on is left over here; what stands
  // before "--" is parsed again, since options may follow files.
  verb->prefix_command();
  verb->callback([verb, flags] {
    std::vector<std::string> rest = verb->remaining();
    const auto dashes = std::find(rest.begin(), rest.end(), "--");
    const bool merge = flags->merge || std::find(rest.begin(), dashes, "--merge") != dashes;
    if (merge && dashes != rest.end()) Fail(ErrorCode::kUsage, "--merge takes files, and no terms");
    if (!merge && dashes == rest.end())
      Fail(ErrorCode::kUsage, "no \"--\": the terms follow it, as in `search FILES -- TERMS`");
    if (!merge) flags->terms.assign(dashes + 1, rest.end());
    rest.erase(dashes, rest.end());
    std::reverse(rest.begin(), rest.end());  // the order in which CLI11 takes a vector
    CLI::App inner;
    AddOptions(inner, *flags);
    inner.add_option("FILES", flags->files)->required();
    inner.parse(rest);
    if (merge) return Merge(*flags);
    RunSearch(*flags);
  });
}

}  // namespace cambium::cli
