#include "train/rouge.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/check.h"
#include "train/porter.h"

namespace cambium {
namespace {

using Words = std::vector<std::string>;

RougeScore ScoreOf(int64_t common, int64_t text, int64_t reference) {
  RougeScore score;
  score.precision = static_cast<double>(common) / static_cast<double>(std::max<int64_t>(1, text));
  score.recall = static_cast<double>(common) / static_cast<double>(std::max<int64_t>(1, reference));
  const double sum = score.precision + score.recall;
  if (sum > 0) score.f = 2 * score.precision * score.recall / sum;
  return score;
}

std::map<std::string, int64_t> Ngrams(const Words& words, size_t order) {
  std::map<std::string, int64_t> ngrams;
  for (size_t i = 0; i + order <= words.size(); ++i) {
    std::string ngram;
    for (size_t j = 0; j < order; ++j) ngram += words[i + j] + ' ';
    ++ngrams[ngram];
  }
  return ngrams;
}

RougeScore NgramScore(const Words& text, const Words& reference, size_t order) {
  const auto own = Ngrams(text, order), theirs = Ngrams(reference, order);
  int64_t common = 0;
  for (const auto& [ngram, count] : own) {
    if (const auto found = theirs.find(ngram); found != theirs.end()) common += std::min(count, found->second);
  }
  const auto count = [&](const Words& words) { return std::max<int64_t>(0, std::ssize(words) + 1 - static_cast<int64_t>(order)); };
  return ScoreOf(common, count(text), count(reference));
}

int64_t CommonSubsequence(const Words& a, const Words& b) {
  std::vector<int64_t> row(b.size() + 1, 0);
  for (const std::string& word : a) {
    int64_t diagonal = 0;
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t above = row[j];
      row[j] = word == b[j - 1] ? diagonal + 1 : std::max(above, row[j - 1]);
      diagonal = above;
    }
  }
  return row.back();
}

void Better(const RougeScore& score, RougeScore& best) {
  if (score.f > best.f) best = score;
}

void Add(const RougeScore& score, double share, RougeScore& sum) {
  sum.precision += share * score.precision;
  sum.recall += share * score.recall;
  sum.f += share * score.f;
}

}  // namespace

Words TokenizeForRouge(std::string_view text, bool stem) {
  Words words;
  std::string word;
  const auto end = [&] {
    if (word.empty()) return;
    words.push_back(stem && word.size() > 3 ? PorterStem(word) : word);
    word.clear();
  };
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    // The two letters beyond ASCII whose lower case is in it: the Kelvin sign, and I with a dot, which leaves a dot.
    if (text.substr(i).starts_with("\xE2\x84\xAA")) {
      word += 'k';
      i += 2;
      continue;
    }
    if (text.substr(i).starts_with("\xC4\xB0")) {
      word += 'i';
      end();
      ++i;
      continue;
    }
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
      word += c;
    } else {
      end();
    }
  }
  end();
  return words;
}

Rouge RougeOf(const std::string& text, const std::vector<std::string>& references, bool stem) {
  Check(!references.empty(), "a text has references");
  const Words own = TokenizeForRouge(text, stem);
  Rouge best;
  for (const std::string& reference : references) {
    const Words theirs = TokenizeForRouge(reference, stem);
    Better(NgramScore(own, theirs, 1), best.one);
    Better(NgramScore(own, theirs, 2), best.two);
    Better(ScoreOf(CommonSubsequence(own, theirs), std::ssize(own), std::ssize(theirs)), best.longest);
  }
  return best;
}

Rouge MeanRouge(const std::vector<std::string>& texts, const std::vector<std::vector<std::string>>& references,
                bool stem) {
  Check(texts.size() == references.size(), "each text has its references");
  Rouge mean;
  const double share = 1.0 / static_cast<double>(std::max<size_t>(1, texts.size()));
  for (size_t i = 0; i < texts.size(); ++i) {
    const Rouge one = RougeOf(texts[i], references[i], stem);
    Add(one.one, share, mean.one);
    Add(one.two, share, mean.two);
    Add(one.longest, share, mean.longest);
  }
  return mean;
}

}  // namespace cambium
