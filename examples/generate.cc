#include <iostream>

#include "cambium/cambium.h"

int main() {
  cambium::Engine engine = cambium::Engine::Load("smollm2");
  cambium::Request request;
  request.prompt = engine.model().Tokenize("The cambium of a tree is");
  request.max_tokens = 64;
  request.sampling.seed = 7;
  engine.Generate(request, [](const cambium::Event& event) { std::cout << event.text << std::flush; });
  std::cout << '\n';
}
