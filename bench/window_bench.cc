// Sliding windows against a memory copy: window_bench [--values N] [--text N] [--search BYTES] [--json].
// Each figure is the best of three, its memory copy taken in the same round, so that the pair saw the same machine.
// Figures of one thread are by processor time, the search by the clock.
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cambium/min_cover.h"
#include "cambium/sliding_max.h"
#include "window/passages.h"
#include "window/words.h"

namespace cambium {
namespace {

// What one thread's work costs: its processor time, which other programs on the machine do not lengthen much.
template <class F>
double Seconds(const F& f) {
  const auto now = [] {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  const double start = now();
  f();
  return now() - start;
}
template <class F>
double WallSeconds(const F& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
template <class F>
double Best(const F& f, int rounds = 3) {
  double best = Seconds(f);
  for (int round = 1; round < rounds; ++round) best = std::min(best, Seconds(f));
  return best;
}

struct Random {
  uint64_t state = 42;
  uint32_t operator()() { return (state = state * 6364136223846793005u + 1442695040888963407u) >> 33; }
};

nlohmann::ordered_json results = nlohmann::ordered_json::array();
bool as_json = false;

void Report(const std::string& what, double value, const char* unit, double of_copy = 0) {
  results.push_back({{"what", what}, {"value", value}, {"unit", unit}});
  if (of_copy > 0) results.back()["of_copy"] = of_copy;
  if (as_json) return;
  std::printf("%-34s %10.3f %s", what.c_str(), value, unit);
  if (of_copy > 0) std::printf("   %.0f %% of a memory copy", 100 * of_copy);
  std::printf("\n");
  std::fflush(stdout);
}

template <class T>
void BenchExtremes(const char* type, int64_t n, std::initializer_list<int64_t> lengths) {
  std::vector<T> values(n), out(n);
  Random random;
  for (T& value : values) value = static_cast<T>(random());
  const std::string suffix = std::string(" ") + type + " k ";
  for (int64_t k : lengths) {
    if (k > n) continue;
    const int64_t count = n - k + 1;
    double copy = 1e30, slide = 1e30, arg = 1e30;
    for (int round = 0; round < 3; ++round) {
      copy = std::min(copy, Seconds([&] { std::memcpy(out.data(), values.data(), count * sizeof(T)); }));
      slide = std::min(slide, Seconds([&] { SlidingMax<T>(values, k, std::span<T>(out).first(count)); }));
    }
    Report("SlidingMax" + suffix + std::to_string(k), n / slide / 1e9, "Gvalues/s", copy / slide * n / count);
    if (std::is_same_v<T, float> && k == 100) {
      std::vector<int64_t> places(count);
      arg = Best([&] { SlidingArgMax<T>(values, k, places); });
      Report("SlidingArgMax" + suffix + std::to_string(k), n / arg / 1e9, "Gvalues/s");
    }
  }
}

void BenchStream(int64_t n) {
  std::vector<float> values(n);
  Random random;
  for (float& value : values) value = static_cast<float>(random());
  for (int shape = 0; shape < 3; ++shape) {
    if (shape == 1) std::sort(values.begin(), values.end());
    if (shape == 2) std::reverse(values.begin(), values.end());
    const char* names[] = {"random", "rising", "falling"};
    for (int64_t k : {3, 100, 100000}) {
      float last = 0;
      const double time = Best([&] {
        SlidingMaximum<float> window(k);
        for (float value : values) last += window.Push(value);
      });
      if (last == 0.5f) std::abort();  // keeps the sum alive
      Report(std::string("stream push, ") + names[shape] + " k " + std::to_string(k), 1e9 * time / n, "ns");
    }
  }
}

// Words of 1 to 9 letters at English letter frequencies, 12 to a line.
std::string EnglishLike(int64_t size) {
  constexpr std::string_view kLetters =
      "eeeeeeeeeeeetttttttttaaaaaaaaoooooooiiiiiiinnnnnnnsssssshhhhhhrrrrrrddddllllccuuummwwffggyyppbbvk";
  Random random;
  std::string text;
  text.reserve(size + 16);
  for (int64_t word = 1; static_cast<int64_t>(text.size()) < size; ++word) {
    for (uint32_t letters = 1 + random() % 9; letters > 0; --letters) text += kLetters[random() % kLetters.size()];
    text += word % 12 == 0 ? '\n' : ' ';
  }
  text.resize(size);
  return text;
}

void BenchCover(int64_t size) {
  const std::string text = EnglishLike(size);
  for (const std::string_view t : {"vkbpygfw", "etaoinshrdlu", "vkbpvkbp", "eeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "xzq"}) {
    Window found;
    const double time = Best([&] { found = MinCover(text, t).value_or(Window{}); });
    Report("MinCover bytes '" + std::string(t.substr(0, 12)) + "'", size / time / 1e6, "MB/s");
  }
  const std::string same(size, 'a');
  double time = Best([&] { (void)MinCover(same, "aab"); });
  Report("MinCover bytes all equal", size / time / 1e6, "MB/s");
  const std::vector<std::string> terms = {"the", "then", "he", "one", "to"};
  time = Best([&] { (void)MinCoverWords(text, terms, false); });
  Report("MinCover words", size / time / 1e6, "MB/s");
  time = Best([&] { (void)MinCoverWords(text, terms, true); });
  Report("MinCover words, ignoring case", size / time / 1e6, "MB/s");
}

void BenchSearch(int64_t size) {
  const std::string text = EnglishLike(size);
  PassageOptions options;
  options.threads = 2;
  for (const bool ignore_case : {false, true}) {
    options.ignore_case = ignore_case;
    for (const std::vector<std::string>& terms :
         {std::vector<std::string>{"then", "street", "one", "dot", "iron"}, {"a", "the", "to", "in", "he"}}) {
      const std::vector<std::string_view> corpus = {text};
      double time = 1e30;
      for (int round = 0; round < 3; ++round) {
        time = std::min(time, WallSeconds([&] { (void)FindPassages(corpus, terms, options); }));
      }
      Report("search, 2 threads, '" + terms[0] + "'..." + (ignore_case ? " -i" : ""), size / time / 1e9, "GB/s");
    }
  }
}

}  // namespace
}  // namespace cambium

int main(int argc, char** argv) {
  int64_t values = 100'000'000, text = 100'000'000, search = 1'000'000'000;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--json") {
      cambium::as_json = true;
    } else if (i + 1 < argc && (flag == "--values" || flag == "--text" || flag == "--search")) {
      (flag == "--values" ? values : flag == "--text" ? text : search) = std::atoll(argv[++i]);
    } else {
      std::fprintf(stderr, "usage: window_bench [--values N] [--text N] [--search BYTES] [--json]\n");
      return 2;
    }
  }
  if (values > 0) {
    cambium::BenchExtremes<float>("float", values, {3, 10, 31, 100, 1000, 10000, 100000});
    cambium::BenchExtremes<double>("double", values / 2, {3, 100, 100000});
    cambium::BenchExtremes<int32_t>("int32", values, {3, 100, 100000});
    cambium::BenchExtremes<int64_t>("int64", values / 2, {3, 100, 100000});
    cambium::BenchStream(values / 10);
  }
  if (text > 0) cambium::BenchCover(text);
  if (search > 0) cambium::BenchSearch(search);
  if (cambium::as_json) std::printf("%s\n", cambium::results.dump(1).c_str());
}
