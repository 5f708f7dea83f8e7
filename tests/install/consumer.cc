#include <cstdio>

#include "cambium/cambium.h"

// consumer [MODEL]: a missing model must throw, a given one must generate.
int main(int argc, char** argv) {
  try {
    cambium::Engine::Load("/nonexistent/model.gguf");
    std::puts("loading a missing model did not throw");
    return 1;
  } catch (const cambium::Error& error) {
    if (error.code() != cambium::ErrorCode::kData) return 1;
  }
  if (argc < 2) return 0;
  cambium::EngineOptions options;
  options.context = 64;
  cambium::Engine engine = cambium::Engine::Load(argv[1], options);
  cambium::GenerateOptions generate;
  generate.max_tokens = 4;
  generate.sampling.temperature = 0;
  const cambium::Generation generation = engine.Generate(engine.Tokenize("The capital of France is"), generate);
  std::printf("%s\n", generation.text.c_str());
  return generation.ids.size() == 4 ? 0 : 1;
}
