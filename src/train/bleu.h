#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace cambium {

// Words as sacrebleu's default "13a" tokenizer cuts them (mteval-v13a.pl).
std::vector<std::string> TokenizeForBleu(std::string_view line);

// Corpus BLEU (Papineni et al. 2002) as sacrebleu computes it by default: 13a words, mixed case, n-grams up to 4,
// exponential smoothing of orders without a match, for each segment the reference length closest to its own.
struct Bleu {
  double score = 0;                        // 0 to 100
  std::array<double, 4> precisions = {};   // per cent
  double brevity_penalty = 0;
  int64_t words = 0, reference_words = 0;
};
// references[i] are those of hypotheses[i], at least one each.
Bleu CorpusBleu(const std::vector<std::string>& hypotheses, const std::vector<std::vector<std::string>>& references);

}  // namespace cambium
