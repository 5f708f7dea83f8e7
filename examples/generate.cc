#include <iostream>

#include "cambium/cambium.h"

int main() {
  cambium::Engine engine = cambium::Engine::Load("smollm2");
  cambium::GenerateOptions options;
  options.max_tokens = 64;
  options.sampling.seed = 7;
  engine.Generate(engine.Tokenize("The cambium of a tree is"), options, [](std::string_view text) {
    std::cout << text << std::flush;
    return true;  // false stops
  });
  std::cout << '\n';
}
