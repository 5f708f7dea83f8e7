// train DATA.jsonl OUTPUT [MODEL]: teaches a model by a LoRA, asks it between the steps, and keeps the adapter.
#include <iostream>

#include "cambium/cambium.h"

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  try {
    const cambium::Model model = cambium::Model::Load(argc > 3 ? argv[3] : "smollm2");
    cambium::Engine engine(model, {.context = 512});
    cambium::TrainConfig config;
    config.data = argv[1];
    config.output = argv[2];
    config.lr = 1e-3f;
    cambium::Training training(model, config);
    const auto ask = [&](const std::vector<cambium::AdapterUse>& adapters) {
      const std::vector<cambium::Message> messages = {{"user", "What did you learn?"}};
      cambium::Request request;
      request.prompt = model.TokenizeChat(messages);
      request.adapters = adapters;
      request.max_tokens = 40;
      request.sampling.temperature = 0;
      std::cout << engine.Generate(request).text << '\n';
    };
    ask({});
    while (const auto step = training.Step()) std::cout << "step " << step->step << ": loss " << step->loss << '\n';
    ask({{training.adapter()}});
    training.Save();
  } catch (const cambium::Error& error) {
    std::cerr << "error: " << error.what() << '\n';
    return static_cast<int>(error.code());
  }
}
