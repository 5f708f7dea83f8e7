#include <iostream>
#include <string>
#include <vector>

#include "cambium/cambium.h"

// chat [MODEL]: answers each line of standard input. The engine remembers earlier turns, and computes the new one alone.
int main(int argc, char** argv) {
  try {
    cambium::Engine engine = cambium::Engine::Load(argc > 1 ? argv[1] : "smollm2");
    std::vector<cambium::Message> messages;
    for (std::string line; std::getline(std::cin, line);) {
      messages.push_back({"user", line});
      cambium::Request request;
      request.prompt = engine.model().TokenizeChat(messages);
      const cambium::Generation answer =
          engine.Generate(request, [](const cambium::Event& event) { std::cout << event.text << std::flush; });
      std::cout << '\n';
      messages.push_back({"assistant", answer.text});
    }
  } catch (const cambium::Error& error) {  // the conversation may outgrow the context
    std::cerr << "error: " << error.what() << '\n';
    return static_cast<int>(error.code());
  }
}
