// MB/s of encoding a text, one thread: tokenizer_bench MODEL.gguf|tokenizer.json TEXT [SECONDS]. Its pair is
// bench/peers/tokenizer_peer.py.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>
#include <string>

#include "cambium/error.h"
#include "io/gguf.h"
#include "io/json.h"
#include "io/tokenizer.h"

namespace {

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

int Run(const std::string& model, const std::string& text_path, double seconds) {
  const double start = Now();
  const cambium::Tokenizer tokenizer = [&] {
    if (model.ends_with(".json")) return cambium::Tokenizer::FromJsonFile(model);
    const cambium::GgufFile file(model);
    return cambium::Tokenizer::FromGguf(file);
  }();
  const double load = Now() - start;
  const std::string text = cambium::ReadTextFile(text_path);
  double best = 1e30;
  size_t ids = 0;
  for (const double end = Now() + seconds; Now() < end;) {
    const double begin = Now();
    ids = tokenizer.Encode(text, false, true).size();
    best = std::min(best, Now() - begin);
  }
  std::printf("load %.1f ms, %zu bytes, %zu ids, %.2f ms, %.1f MB/s\n", load * 1e3, text.size(), ids, best * 1e3,
              text.size() / best / 1e6);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: tokenizer_bench MODEL.gguf|tokenizer.json TEXT [SECONDS]\n");
    return 2;
  }
  try {
    return Run(argv[1], argv[2], argc > 3 ? std::stod(argv[3]) : 2.0);
  } catch (const cambium::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
