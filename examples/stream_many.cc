#include <iomanip>
#include <iostream>

#include "cambium/cambium.h"

// Several requests at once: a Step is one pass for all of them, and the sink gets each one's text as it comes.
int main() {
  cambium::Engine engine = cambium::Engine::Load("smollm2");
  for (const char* prompt : {"The first book that I read was", "Two birds sat on", "In the middle of the night"}) {
    cambium::Request request;
    request.prompt = engine.model().Tokenize(prompt);
    request.max_tokens = 16;
    std::cout << engine.Submit(request) << ": " << prompt << '\n';
  }
  const auto show = [](const cambium::Event& event) {
    std::cout << event.request << ": " << std::quoted(event.text);
    if (event.kind == cambium::Event::Kind::kFinished) std::cout << ", " << Name(event.generation->finish_reason);
    std::cout << '\n';
  };
  while (engine.Step(show)) {
  }
}
