// Words, passages and the verbs over windows.
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "temp_folder.h"
#include "window/passages.h"

namespace cambium {
namespace {

TEST(Words, AreRunsOfLettersAcrossScripts) {
  std::vector<std::string> words;
  const std::string text = " It's “naïve”—5µm, x_1\xff done…日本、語";
  ForEachWord(text, [&](int64_t begin, int64_t end) { words.push_back(text.substr(begin, end - begin)); });
  EXPECT_EQ(words, (std::vector<std::string>{"It", "s", "naïve", "5µm", "x_1\xff", "done", "日本", "語"}));
  EXPECT_EQ(LowerCase("ÉCOLE Straße \xff \u212A"), "école straße \xff \u212A");
}

TEST(Words, MinCoverCountsWords) {
  const std::vector<std::string> terms = {"b", "A", "b"};
  const std::string text = "a b c d, a longlonglong b; B a b a";
  EXPECT_EQ(MinCoverWords(text, terms, true), (WordWindow{24, 30, 3}));
  EXPECT_EQ(MinCoverWords(text, terms, false), std::nullopt);
  for (const char* bad : {"", "two words", "a.", "“a"}) {
    EXPECT_THROW(MinCoverWords(text, std::vector<std::string>{bad}, false), Error) << bad;
  }
  EXPECT_THROW(MinCoverWords(text, std::vector<std::string>{}, false), Error);
}

// By every pair of word starts and ends.
std::vector<Passage> Brute(const std::string& text, const std::vector<std::string>& terms,
                           const PassageOptions& options) {
  std::vector<std::pair<int64_t, int64_t>> words;
  ForEachWord(text, [&](int64_t begin, int64_t end) { words.push_back({begin, end}); });
  const auto fold = [&](std::string word) { return options.ignore_case ? LowerCase(word) : word; };
  const auto covers = [&](size_t from, size_t to) {
    return std::all_of(terms.begin(), terms.end(), [&](const std::string& term) {
      int64_t need = std::count_if(terms.begin(), terms.end(), [&](auto& t) { return fold(t) == fold(term); });
      for (size_t i = from; i < to; ++i)
        need -= fold(text.substr(words[i].first, words[i].second - words[i].first)) == fold(term);
      return need <= 0;
    });
  };
  std::vector<Passage> all;
  for (size_t from = 0; from < words.size(); ++from) {
    for (size_t to = from + 1; to <= words.size(); ++to) {
      if (!covers(from, to)) continue;
      const Passage p{0, words[from].first, words[to - 1].second};
      if (!covers(from + 1, to) && p.size() <= options.within) all.push_back(p);
      break;
    }
  }
  return ShortestPassages(all, options.limit);
}

TEST(Passages, AgreeWithBruteForce) {
  EXPECT_TRUE(rc::check([] {
    const std::vector<std::string> vocabulary = {"the", "The", "then", "he", "été", "ÉTÉ",
                                                 "a",   "of",  "“",    ".",  "\n",  "x\xff"};
    std::string text;
    const auto size = *rc::gen::inRange(0, 120);
    for (int i = 0; i < size; ++i) {
      text += vocabulary[*rc::gen::inRange<size_t>(0, vocabulary.size())];
      if (*rc::gen::inRange(0, 8) > 0) text += ' ';
    }
    const std::vector<std::string> sought = {"the", "he", "été", "a", "The"};
    std::vector<std::string> terms;
    const auto count = *rc::gen::inRange(1, 4);
    for (int i = 0; i < count; ++i) terms.push_back(sought[*rc::gen::inRange<size_t>(0, sought.size())]);
    PassageOptions options;
    options.ignore_case = *rc::gen::arbitrary<bool>();
    options.limit = *rc::gen::inRange(1, 5);
    if (*rc::gen::arbitrary<bool>()) options.within = *rc::gen::inRange(1, 60);
    const std::vector<std::string_view> corpus = {text};
    RC_ASSERT(FindPassages(corpus, terms, options) == Brute(text, terms, options));
  }));
}

TEST(Passages, CrossPiecesAndIgnoreThreadCount) {
  std::string text(9 << 20, ' ');
  for (size_t i = 1000; i + 4 < text.size(); i += 4096) text.replace(i, 3, i % 8192 == 1000 ? "one" : "the");
  text.replace((4 << 20) - 2, 3, "two");  // over the border of two pieces
  text.replace((4 << 20) - 10, 4, "four");
  PassageOptions options;
  const std::vector<std::string_view> corpus = {text, text};
  const auto alone = FindPassages(corpus, std::vector<std::string>{"four", "two", "one"}, options);
  ASSERT_EQ(alone.size(), 2u);
  EXPECT_EQ(alone[0], (Passage{0, (4 << 20) - 10, (4 << 20) + 1003}));
  EXPECT_EQ(alone[1].document, 1);
  options.threads = 3;
  EXPECT_EQ(FindPassages(corpus, std::vector<std::string>{"four", "two", "one"}, options), alone);
  options.limit = 0;
  EXPECT_THROW(FindPassages(corpus, std::vector<std::string>{"one"}, options), Error);
}

// The comparison itself must be able to fail.
TEST(Passages, AWrongAnswerIsSeen) {
  PassageOptions options;
  const std::string text = "a the he a";
  EXPECT_NE(Brute(text, {"a", "he"}, options), Brute(text, {"a", "the"}, options));
}

// One for the process.
const TempFolder& Folder() {
  static const TempFolder folder;
  return folder;
}

struct Ran {
  int code;
  std::string out;  // stdout and stderr
};
Ran Cli(const std::string& arguments, const std::string& input = "") {
  const std::string path = Folder() / "input";
  std::ofstream(path, std::ios::binary) << input;
  const std::string command = std::string(CAMBIUM_CLI) + " " + arguments + " 2>&1 < " + path;
  FILE* pipe = popen(command.c_str(), "r");
  std::string out;
  for (std::array<char, 4096> block; const size_t size = std::fread(block.data(), 1, block.size(), pipe);) {
    out.append(block.data(), size);
  }
  return {WEXITSTATUS(pclose(pipe)), out};
}
std::string File(const std::string& name, const std::string& content) {
  const std::string path = Folder() / name;
  std::ofstream(path, std::ios::binary) << content;
  return path;
}
void ExpectError(const Ran& ran, int code, const std::string& part) {
  EXPECT_EQ(ran.code, code) << ran.out;
  EXPECT_EQ(ran.out.find("error: "), 0u) << ran.out;
  EXPECT_NE(ran.out.find(part), std::string::npos) << ran.out;
  EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '\n'), 1) << ran.out;
}
std::string Npy(const std::string& descr, const std::string& order, const std::string& shape, const std::string& data) {
  std::string header = "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }\n";
  return std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(header.size()) + '\0' + header + data;
}

TEST(WindowVerb, Cover) {
  EXPECT_EQ(Cli("window cover ADOBECODEBANC ABC").out, "BANC\n");
  EXPECT_EQ(Cli("window cover a a").out, "a\n");
  EXPECT_EQ(Cli("window cover a aa").out, "");
  EXPECT_EQ(Cli("window cover a aa").code, 0);
  EXPECT_EQ(Cli("window cover a aa --json").out, "null\n");
  EXPECT_EQ(Cli("window cover 'zéÉ' 'éÉ' --ignore-case").out, "éÉ\n");
  EXPECT_EQ(Cli("window cover abcab ca --all").out, "abc\nca\n");
  EXPECT_EQ(Cli("window cover abba ab --all").out, "ab\nba\n");
  EXPECT_EQ(Cli("window cover 'to be or not to be' 'be to' --words").out, "to be\n");
  EXPECT_EQ(Cli("window cover --file " + File("cover.txt", "ADOBECODEBANC") + " ABC").out, "BANC\n");
  ExpectError(Cli("window cover abc ''"), 2, "T is missing or empty");
  ExpectError(Cli("window cover --file " + File("bad.txt", "ab\xff") + " a"), 3, "byte 2 is not UTF-8");
  ExpectError(Cli("window cover --file /nonexistent/file a"), 3, "/nonexistent/file");
}

TEST(WindowVerb, Max) {
  EXPECT_EQ(Cli("window max -k 3 1 3 -1 -3 5 3 6 7").out, "3 3 5 5 6 7\n");
  EXPECT_EQ(Cli("window max -k 3 --min 1 3 -1 -3 5 3 6 7").out, "-1 -3 -3 -3 3 3\n");
  EXPECT_EQ(Cli("window max -k 3 --arg --json 1 3 -1 -3 5 3 6 7").out, "[1,1,4,4,6,7]\n");
  EXPECT_EQ(Cli("window max -k 1 1").out, "1\n");
  EXPECT_EQ(Cli("window max -k 9 1 2").out, "");
  EXPECT_EQ(Cli("window max -k 2", "1.5 2\n,3\nnan 1").out, "2 3 nan nan\n");
  EXPECT_EQ(Cli("window max -k 1 --type int64 9007199254740993").out, "9007199254740993\n");
  for (const char* k : {"0", "-1", "99999999999999999999", "x"}) {
    ExpectError(Cli(std::string("window max -k ") + k + " 1 2"), 2, std::string("-k ") + k);
  }
  std::string lines;
  for (int i = 1; i <= 20; ++i) lines += i == 17 ? "seven\n" : "7\n";
  ExpectError(Cli("window max -k 30 --file " + File("lines.txt", lines)), 3, "line 17: \"seven\" is not a number");
  ExpectError(Cli("window max -k 1 9007199254740993"), 3, "--type int64");
}

TEST(WindowVerb, MaxOfNpy) {
  const std::string one("\0\0\x80\x3f", 4), two("\0\0\0\x40", 4);
  const auto run = [](const std::string& bytes) { return Cli("window max -k 2 --file " + File("a.npy", bytes)); };
  EXPECT_EQ(run(Npy("<f4", "False", "(3,)", one + two + one)).out, "2 2\n");
  EXPECT_EQ(run(Npy("<f4", "False", "(0,)", "")).out, "");
  ExpectError(run(Npy("<f4", "True", "(3,)", one + two + one)), 3, "Fortran order");
  ExpectError(run(Npy(">f4", "False", "(1,)", one)), 3, "big-endian");
  ExpectError(run(Npy("<f4", "False", "(1, 1)", one)), 3, "not one dimension");
  ExpectError(run(Npy("<f4", "False", "(2,)", one)), 3, "the header says 8");
  ExpectError(run(Npy("<f4", "False", "(9223372036854775807,)", one)), 3, "overflows");
  ExpectError(run("not numpy at all"), 3, "not a .npy file");
  ExpectError(run(std::string("\x93NUMPY\x01\x00\xff\xff{", 11)), 3, "more than the file");
  ExpectError(run(std::string("\x93NUMPY\x01\x00\x02\x00{}", 12)), 3, "has no 'descr'");
}

TEST(SearchVerb, FindsAndRanks) {
  const std::string text = File("a.txt", "the cat\nsat on the mat\nthe dog sat, the cat ran\n");
  EXPECT_EQ(Cli("search " + text + " -- cat sat").out, text + ":1: cat sat\n" + text + ":3: sat, the cat\n");
  EXPECT_EQ(Cli("search -n 1 " + text + " --ignore-case -- the THE mat").out, text + ":2: the mat the\n");
  EXPECT_EQ(Cli("search " + text + " -- unicorn").out, "");
  const std::string records = File("b.jsonl", "{\"text\":\"x\"}\n\n{\"text\":\"a cat\\nsat\"}\n");
  EXPECT_EQ(Cli("search --json " + records + " -- cat sat").out,
            "[{\"file\":\"" + records + "\",\"line\":3,\"bytes\":7,\"text\":\"cat\\nsat\"}]\n");
  ExpectError(Cli("search " + text), 2, "no \"--\"");
  ExpectError(Cli("search " + text + " --"), 2, "no term");
  ExpectError(Cli("search -- cat"), 2, "cat");
  ExpectError(Cli("search " + text + " -- 'two words'"), 2, "not one word");
  ExpectError(Cli("search /nonexistent/file -- a"), 3, "/nonexistent/file");
  ExpectError(Cli("search --field body " + records + " -- a"), 3, "line 1: field \"body\" is not a text");
}

}  // namespace
}  // namespace cambium
