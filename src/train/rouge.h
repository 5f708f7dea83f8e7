#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cambium {

// Words as rouge-score cuts them: lower case, of a-z and 0-9; with `stem`, those of more than three letters as stems.
std::vector<std::string> TokenizeForRouge(std::string_view text, bool stem);

// ROUGE (Lin 2004) as PyPI's rouge-score computes it: shares of words, of pairs of words, and of the longest common
// subsequence; of several references the one with the best F. 0 to 1.
struct RougeScore {
  double precision = 0, recall = 0, f = 0;
};
struct Rouge {
  RougeScore one, two, longest;
};
Rouge RougeOf(const std::string& text, const std::vector<std::string>& references, bool stem);
// The means over texts; references[i] are those of texts[i], at least one each.
Rouge MeanRouge(const std::vector<std::string>& texts, const std::vector<std::vector<std::string>>& references,
                bool stem);

}  // namespace cambium
