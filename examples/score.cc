#include <iostream>

#include "cambium/cambium.h"

// Which of two endings the model finds likelier: the log-probabilities of each whole sentence.
int main() {
  cambium::Engine engine = cambium::Engine::Load("smollm2");
  for (const char* sentence : {"The capital of France is Paris.", "The capital of France is Berlin."}) {
    const cambium::Score score = engine.ScoreIds(engine.model().Tokenize(sentence));
    std::cout << score.perplexity << "  " << sentence << '\n';
  }
}
