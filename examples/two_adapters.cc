#include <iostream>
#include <map>
#include <string>

#include "cambium/cambium.h"

// two_adapters MODEL ADAPTER ADAPTER: continues one text with each of two adapters, both in the same passes.
int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: two_adapters MODEL ADAPTER ADAPTER\n";
    return 2;
  }
  try {
    const cambium::Model model = cambium::Model::Load(argv[1]);
    cambium::Engine engine(model);
    std::map<cambium::RequestId, std::string> paths, texts;
    for (const char* path : {argv[2], argv[3]}) {
      cambium::Request request;
      request.prompt = model.Tokenize("The old lighthouse keeper opened the door and");
      request.adapters = {{cambium::Adapter::Load(model, path)}};
      request.max_tokens = 64;
      paths[engine.Submit(request)] = path;
    }
    while (engine.Step([&](const cambium::Event& event) { texts[event.request] += event.text; })) {
    }
    for (const auto& [request, text] : texts) std::cout << paths[request] << ": " << text << '\n';
  } catch (const cambium::Error& error) {
    std::cerr << "error: " << error.what() << '\n';
    return static_cast<int>(error.code());
  }
}
