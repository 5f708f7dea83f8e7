#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "cambium/cambium.h"

namespace {

// Streams two requests in the same passes; each must be answered as it is alone.
bool StreamsTwo(const std::string& path, const std::vector<std::string>& adapters) {
  cambium::EngineOptions options;
  options.context = 64;
  cambium::Engine engine = cambium::Engine::Load(path, options);
  std::map<cambium::RequestId, cambium::Request> requests;
  for (const char* text : {"The capital of France is", "Two birds sat on a"}) {
    cambium::Request request;
    request.prompt = engine.model().Tokenize(text);
    request.max_tokens = 4;
    request.ignore_end = true;
    request.sampling.temperature = 0;
    if (!adapters.empty()) {
      request.adapters = {{cambium::Adapter::Load(engine.model(), adapters[requests.size()])}};
    }
    requests[engine.Submit(request)] = request;
  }
  std::map<cambium::RequestId, std::string> texts;
  std::map<cambium::RequestId, cambium::Generation> answers;
  bool together = true, whole = true;
  while (engine.Step([&](const cambium::Event& event) {
    texts[event.request] += event.text;
    if (event.kind != cambium::Event::Kind::kFinished) return;
    together = together && texts.size() == 2;  // the other has begun
    answers[event.request] = *event.generation;
  })) {
  }
  for (const auto& [id, request] : requests) {
    std::printf("%s\n", texts[id].c_str());
    whole = whole && answers[id].ids.size() == 4 && answers[id].text == texts[id] &&
            engine.Generate(request).ids == answers[id].ids;
  }
  return together && whole && answers.size() == 2;
}

}  // namespace

// consumer [MODEL [ADAPTER ADAPTER]]: a missing model must throw, a given one must answer two requests at once.
int main(int argc, char** argv) {
  try {
    cambium::Engine::Load("/nonexistent/model.gguf");
    std::puts("loading a missing model did not throw");
    return 1;
  } catch (const cambium::Error& error) {
    if (error.code() != cambium::ErrorCode::kData) return 1;
  }
  if (argc < 2) return 0;
  if (argc != 2 && argc != 4) return 2;
  return StreamsTwo(argv[1], {argv + 2, argv + argc}) ? 0 : 1;
}
