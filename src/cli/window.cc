#include <utf8proc.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>

#include "base/check.h"
#include "cambium/min_cover.h"
#include "cambium/sliding_max.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "io/mapped_file.h"
#include "window/words.h"

namespace cambium::cli {
namespace {

// A window of the text: bytes [begin, end), and its length in words or code points.
struct Found {
  int64_t begin, end, length;
};

struct CoverFlags {
  OutputFlags output;
  std::string s, t, file;
  bool words = false, ignore_case = false, all = false;
  int64_t shortest = 0;
};

void DecodePoint(std::string_view text, int64_t at, std::string_view what, char32_t& point, int64_t& size) {
  utf8proc_int32_t value;
  size = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at),
                          static_cast<utf8proc_ssize_t>(text.size() - at), &value);
  if (size <= 0) Fail(ErrorCode::kData, what, ": byte ", at, " is not UTF-8");
  point = static_cast<char32_t>(value);
}

// Every minimal window in order, over code points or words.
template <class F>
void MinimalFound(std::string_view text, const std::string& what, const CoverFlags& flags, const F& report) {
  if (flags.words) {
    std::vector<std::string> terms;
    ForEachWord(flags.t, [&](int64_t begin, int64_t end) { terms.push_back(flags.t.substr(begin, end - begin)); });
    MinimalWordWindows(text, WordMatcher(terms, flags.ignore_case), [&](const WordWindow& w) {
      report(Found{w.begin, w.end, w.words});
    });
    return;
  }
  const auto fold = [&](char32_t point) { return flags.ignore_case ? LowerCase(point) : point; };
  std::vector<std::pair<char32_t, int64_t>> classes;
  std::vector<int64_t> need;
  char32_t point;
  int64_t size;
  const auto find = [&] {
    return std::lower_bound(classes.begin(), classes.end(), std::pair(fold(point), int64_t{0})) - classes.begin();
  };
  const auto is = [&](int64_t place) {
    return place < static_cast<int64_t>(classes.size()) && classes[place].first == fold(point);
  };
  for (int64_t at = 0; at < static_cast<int64_t>(flags.t.size()); at += size) {
    DecodePoint(flags.t, at, "T", point, size);
    const int64_t place = find();
    if (!is(place)) {
      classes.insert(classes.begin() + place, {fold(point), static_cast<int64_t>(need.size())});
      need.push_back(0);
    }
    ++need[classes[place].second];
  }
  CoverList list(need);
  int64_t index = 0;
  for (int64_t at = 0; at < static_cast<int64_t>(text.size()); at += size, ++index) {
    DecodePoint(text, at, what, point, size);
    const int64_t place = find();
    if (is(place) && list.Push(classes[place].second, index, at)) {
      report(Found{list.begin_tag(), at + size, index + 1 - list.begin()});
    }
  }
}

nlohmann::ordered_json FoundJson(const Found& w, std::string_view text, bool words) {
  return {{"begin", w.begin},
          {"end", w.end},
          {words ? "words" : "code_points", w.length},
          {"text", text.substr(w.begin, w.end - w.begin)}};
}

void RunCover(const CoverFlags& given) {
  CoverFlags flags = given;
  std::unique_ptr<MappedFile> map;
  std::string_view text = flags.s;
  std::string what = "S";
  if (!flags.file.empty()) {
    if (!flags.t.empty()) Fail(ErrorCode::kUsage, "--file gives S: only T may follow, not \"", flags.t, "\" too");
    flags.t = flags.s;
    map = std::make_unique<MappedFile>(flags.file);
    text = {reinterpret_cast<const char*>(map->bytes().data()), map->bytes().size()};
    what = flags.file;
  }
  if (flags.t.empty()) Fail(ErrorCode::kUsage, "T is missing or empty: give what the window must hold");

  const bool many = flags.all || flags.shortest > 0;
  std::vector<Found> found;
  MinimalFound(text, what, flags, [&](const Found& w) {
    if (many) {
      found.push_back(w);
    } else if (found.empty() || w.length < found[0].length) {
      found = {w};
    }
  });
  if (map) map->CheckIntact();
  if (flags.shortest > 0) {
    std::stable_sort(found.begin(), found.end(), [](const Found& a, const Found& b) { return a.length < b.length; });
    std::vector<Found> chosen;
    for (const Found& w : found) {
      if (static_cast<int64_t>(chosen.size()) == flags.shortest) break;
      const auto overlaps = [&](const Found& c) { return w.begin < c.end && c.begin < w.end; };
      if (std::none_of(chosen.begin(), chosen.end(), overlaps)) chosen.push_back(w);
    }
    found = std::move(chosen);
  }
  if (flags.output.json) {
    if (!many) return WriteJson(found.empty() ? nlohmann::ordered_json() : FoundJson(found[0], text, flags.words));
    auto list = nlohmann::ordered_json::array();
    for (const Found& w : found) list.push_back(FoundJson(w, text, flags.words));
    return WriteJson(list);
  }
  for (const Found& w : found) Write(std::string(text.substr(w.begin, w.end - w.begin)) + "\n");
}

struct MaxFlags {
  OutputFlags output;
  std::string k, type = "double", file;
  std::vector<std::string> numbers;
  bool min = false, arg = false;
};

template <class T>
T ParseNumber(std::string_view word, std::string_view where) {
  T value{};
  const char* begin = word.data() + (word.size() > 1 && word[0] == '+' && word[1] != '-' ? 1 : 0);
  const auto [end, error] = std::from_chars(begin, word.data() + word.size(), value);
  if (error == std::errc::result_out_of_range) Fail(ErrorCode::kData, where, ": \"", word, "\" is out of range");
  if (error != std::errc() || end != word.data() + word.size()) {
    Fail(ErrorCode::kData, where, ": \"", word.substr(0, 40), "\" is not ",
         std::is_integral_v<T> ? "an integer" : "a number");
  }
  if constexpr (std::is_floating_point_v<T>) {  // silent rounding of a long integer would print another number
    constexpr T kExact = static_cast<T>(int64_t{1} << std::numeric_limits<T>::digits);
    int64_t whole;
    const auto [whole_end, whole_error] = std::from_chars(begin, word.data() + word.size(), whole);
    if (whole_error == std::errc() && whole_end == word.data() + word.size() && std::abs(value) >= kExact &&
        (std::abs(value) >= T(0x1p63) || static_cast<int64_t>(value) != whole)) {
      Fail(ErrorCode::kData, where, ": ", word, " has no exact floating-point value; use --type int64");
    }
  }
  return value;
}

// Takes values one at a time and prints as windows close: constant memory.
template <class T, bool kMin>
class Printer {
 public:
  Printer(const MaxFlags& flags, int64_t k) : window_(k), json_(flags.output.json), arg_(flags.arg) {
    if (json_) text_ = "[";
  }
  void Push(T value) {
    const T extreme = window_.Push(value);
    if (!window_.full()) return;
    if (cut_ && ++shown_ > kMostShown) return;
    if (!first_) text_ += json_ ? ',' : ' ';
    first_ = false;
    char digits[64];
    if (arg_) {
      text_.append(digits, std::to_chars(digits, digits + sizeof digits, window_.index()).ptr);
    } else if (std::is_floating_point_v<T> && !std::isfinite(static_cast<double>(extreme))) {
      const char* name = extreme != extreme ? "nan" : extreme > 0 ? "inf" : "-inf";
      text_ += json_ ? "\"" + std::string(name) + "\"" : name;
    } else {
      text_.append(digits, std::to_chars(digits, digits + sizeof digits, extreme).ptr);
    }
    if (text_.size() > 1 << 16) Flush();
  }
  void Finish() {
    if (json_) text_ += "]";
    if (json_ || !first_) text_ += '\n';
    Flush();
    if (shown_ > kMostShown) {
      std::fprintf(stderr, "%lld more values; a file or a pipe gets them all\n",
                   static_cast<long long>(shown_ - kMostShown));
    }
  }

 private:
  static constexpr int64_t kMostShown = 1000;  // at a terminal
  void Flush() {
    Write(text_);
    text_.clear();
  }

  SlidingExtreme<T, kMin> window_;
  bool json_, arg_, first_ = true, cut_ = IsTerminal(stdout);
  int64_t shown_ = 0;
  std::string text_;
};

// Numbers parted by white space or commas, read 64 KiB at a time.
template <class T, class Sink>
void ReadNumbers(FILE* file, const std::string& name, Sink& sink) {
  constexpr size_t kLongest = 4096;
  std::vector<char> block(1 << 16);
  std::string word;
  int64_t line = 1;
  const auto flush = [&] {
    if (word.empty()) return;
    sink.Push(ParseNumber<T>(word, name + ", line " + std::to_string(line)));
    word.clear();
  };
  while (const size_t size = std::fread(block.data(), 1, block.size(), file)) {
    for (size_t i = 0; i < size; ++i) {
      const char c = block[i];
      if (c == ' ' || c == '\n' || c == ',' || c == '\t' || c == '\r') {
        flush();
        line += c == '\n';
      } else if (word.push_back(c); word.size() > kLongest) {
        Fail(ErrorCode::kData, name, ", line ", line, ": \"", word.substr(0, 20), "...\" is not a number");
      }
    }
  }
  if (std::ferror(file)) Fail(ErrorCode::kRuntime, name, ": cannot be read");
  flush();
}

// NumPy's format (numpy.lib.format), one dimension, little-endian: returns the data, sets its type.
std::span<const uint8_t> ReadNpy(const MappedFile& file, std::string& type) {
  const auto bytes = file.bytes();
  const auto fail = [&](const std::string& why) { Fail(ErrorCode::kData, file.path(), ": ", why); };
  if (bytes.size() < 10 || std::memcmp(bytes.data(), "\x93NUMPY", 6) != 0) fail("not a .npy file");
  const int version = bytes[6];
  if (version < 1 || version > 3) fail(".npy version " + std::to_string(version) + " is not 1, 2 or 3");
  const size_t start = version == 1 ? 10 : 12;
  if (bytes.size() < start) fail(".npy header is cut short");
  uint64_t length = bytes[8] | bytes[9] << 8;
  if (version > 1) length |= static_cast<uint64_t>(bytes[10]) << 16 | static_cast<uint64_t>(bytes[11]) << 24;
  if (length > bytes.size() - start) fail(".npy header says " + std::to_string(length) + " bytes, more than the file");
  const std::string_view header(reinterpret_cast<const char*>(bytes.data() + start), length);
  const auto field = [&](std::string_view key) {  // the text after 'key':
    const size_t at = header.find("'" + std::string(key) + "':");
    if (at == std::string_view::npos) fail(".npy header has no '" + std::string(key) + "'");
    std::string_view rest = header.substr(at + key.size() + 3);
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    return rest;
  };
  const std::string_view descr = field("descr");
  const size_t quote = descr.size() > 1 && descr[0] == '\'' ? descr.find('\'', 1) : std::string_view::npos;
  if (quote == std::string_view::npos) fail(".npy 'descr' is not a plain type");
  const std::string name(descr.substr(1, quote - 1));
  const std::pair<const char*, const char*> kTypes[] = {
      {"<f4", "float"}, {"<f8", "double"}, {"<i4", "int32"}, {"<i8", "int64"}};
  const auto known = std::find_if(std::begin(kTypes), std::end(kTypes), [&](auto& t) { return name == t.first; });
  if (known == std::end(kTypes)) {
    fail(".npy type '" + name + "' is not <f4, <f8, <i4 or <i8" + (name[0] == '>' ? " (big-endian)" : ""));
  }
  type = known->second;
  if (field("fortran_order").substr(0, 5) != "False") fail(".npy array is in Fortran order");
  std::string_view shape = field("shape");
  int64_t count = -1;
  const auto [end, error] = std::from_chars(shape.data() + 1, shape.data() + shape.size(), count);
  if (shape[0] != '(' || error != std::errc() || count < 0 ||
      std::string_view(end, shape.data() + shape.size() - end).substr(0, 2) != ",)") {
    fail(".npy shape " + std::string(shape.substr(0, shape.find(')') + 1)) + " is not one dimension");
  }
  const uint64_t need = CheckedMul<uint64_t>(count, name[2] - '0', file.path() + ": .npy size");
  const auto data = bytes.subspan(start + length);
  if (data.size() != need) {
    fail(".npy data is " + std::to_string(data.size()) + " bytes, the header says " + std::to_string(need));
  }
  return data;
}

template <class T, bool kMin>
void RunMaxOf(const MaxFlags& flags, int64_t k, std::span<const uint8_t> npy) {
  Printer<T, kMin> printer(flags, k);
  if (npy.data() != nullptr) {
    for (size_t at = 0; at < npy.size(); at += sizeof(T)) {
      T value;
      std::memcpy(&value, npy.data() + at, sizeof(T));
      printer.Push(value);
    }
  } else if (!flags.file.empty() && flags.file != "-") {
    const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(flags.file.c_str(), "rb"), std::fclose);
    if (!file) Fail(ErrorCode::kData, flags.file, ": ", std::strerror(errno));
    ReadNumbers<T>(file.get(), flags.file, printer);
  } else if (flags.file == "-" || flags.numbers.empty()) {
    ReadNumbers<T>(stdin, "standard input", printer);
  } else {
    for (size_t i = 0; i < flags.numbers.size(); ++i) {
      printer.Push(ParseNumber<T>(flags.numbers[i], "number " + std::to_string(i + 1)));
    }
  }
  printer.Finish();
}

void RunMax(const MaxFlags& given) {
  MaxFlags flags = given;
  int64_t k = 0;
  const auto [end, error] = std::from_chars(flags.k.data(), flags.k.data() + flags.k.size(), k);
  if (error != std::errc() || end != flags.k.data() + flags.k.size() || k < 1) {
    Fail(ErrorCode::kUsage, "-k ", flags.k, ": must be an integer from 1 to 2^63 - 1");
  }
  if (!flags.file.empty() && !flags.numbers.empty()) Fail(ErrorCode::kUsage, "numbers and --file exclude each other");
  std::unique_ptr<MappedFile> map;
  std::span<const uint8_t> npy;
  if (flags.file.ends_with(".npy")) {
    map = std::make_unique<MappedFile>(flags.file);
    npy = ReadNpy(*map, flags.type);
  }
  const auto run = [&]<class T>(T) {
    flags.min ? RunMaxOf<T, true>(flags, k, npy) : RunMaxOf<T, false>(flags, k, npy);
  };
  if (flags.type == "int32") run(int32_t{});
  if (flags.type == "int64") run(int64_t{});
  if (flags.type == "float") run(float{});
  if (flags.type == "double") run(double{});
  if (map) map->CheckIntact();
}

}  // namespace

void AddWindow(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("window", "Sliding windows: the shortest that covers, the largest value in each");
  verb->require_subcommand(1);

  auto cover_flags = std::make_shared<CoverFlags>();
  CLI::App* cover = verb->add_subcommand("cover", "Print the shortest window of S that holds every character of T");
  cover->add_option("S", cover_flags->s, "the text, or T where --file gives the text")->required();
  cover->add_option("T", cover_flags->t, "what the window must hold, repeated elements as often");
  cover->add_option("--file", cover_flags->file, "read S from a file");
  cover->add_flag("--words", cover_flags->words, "windows of words, not of characters");
  cover->add_flag("-i,--ignore-case", cover_flags->ignore_case, "upper and lower case are the same");
  auto* all = cover->add_flag("--all", cover_flags->all, "every minimal window, in order, one a line");
  cover->add_option("-n,--shortest", cover_flags->shortest, "the N shortest that do not overlap")
      ->check(CLI::PositiveNumber)
      ->excludes(all);
  AddOutput(*cover, cover_flags->output);
  cover->callback([cover_flags] { RunCover(*cover_flags); });

  auto max_flags = std::make_shared<MaxFlags>();
  CLI::App* max = verb->add_subcommand("max", "Print the largest of every K neighbouring numbers");
  max->add_option("-k", max_flags->k, "window length")->required();
  max->add_option("NUMBERS", max_flags->numbers, "the numbers; without them and --file, standard input");
  max->add_option("--file", max_flags->file, "a text file, a .npy array, or - for standard input");
  max->add_option("--type", max_flags->type, "how to read numbers; .npy says so itself")
      ->check(CLI::IsMember({"int32", "int64", "float", "double"}))
      ->capture_default_str();
  max->add_flag("--min", max_flags->min, "the smallest instead");
  max->add_flag("--arg", max_flags->arg, "its index, from 0, the first of equals");
  AddOutput(*max, max_flags->output);
  max->callback([max_flags] { RunMax(*max_flags); });
}

}  // namespace cambium::cli
