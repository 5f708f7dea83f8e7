#include "train/bleu.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <utility>

#include "base/check.h"

namespace cambium {
namespace {

constexpr size_t kOrders = 4;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsPoint(char c) { return c == '.' || c == ','; }

void ReplaceAll(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) text.replace(at, from.size(), to);
}

// Bytes of the white space at the beginning of `text`, as Python's str.split() knows it; 0 if there is none.
size_t SpaceLength(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned first = byte(0);
  if (first == ' ' || (first >= 9 && first <= 13) || (first >= 28 && first <= 31)) return 1;
  if (first == 0xC2 && (byte(1) == 0x85 || byte(1) == 0xA0)) return 2;
  if (first < 0xE1 || first > 0xE3) return 0;
  const unsigned code = (first & 15) << 12 | (byte(1) & 63) << 6 | (byte(2) & 63);
  const bool space = code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
                     code == 0x202F || code == 0x205F || code == 0x3000;
  return space ? 3 : 0;
}

using Ngrams = std::map<std::string, int64_t>;  // words joined by spaces, of all orders

Ngrams Count(const std::vector<std::string>& words, std::array<int64_t, kOrders>* totals = nullptr) {
  Ngrams ngrams;
  for (size_t begin = 0; begin < words.size(); ++begin) {
    std::string ngram;
    for (size_t order = 0; order < kOrders && begin + order < words.size(); ++order) {
      ngram += (order == 0 ? "" : " ") + words[begin + order];
      ++ngrams[ngram];
      if (totals != nullptr) ++(*totals)[order];
    }
  }
  return ngrams;
}

}  // namespace

std::vector<std::string> TokenizeForBleu(std::string_view line) {
  std::string text(line);
  while (!text.empty() && SpaceLength(text.substr(text.size() - 1)) > 0) text.pop_back();
  ReplaceAll(text, "<skipped>", "");
  ReplaceAll(text, "-\n", "");
  ReplaceAll(text, "\n", " ");
  for (const auto& [entity, sign] : {std::pair{"&quot;", "\""}, {"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}}) {
    ReplaceAll(text, entity, sign);
  }
  text = " " + text + " ";

  // The script's four substitutions, each over the whole line; a match of two characters consumes both.
  std::string spaced;
  for (const char c : text) {
    const bool sign = (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') || (c >= '(' && c <= '+') ||
                      (c >= ':' && c <= '@') || c == '/';
    spaced += sign ? std::string{' ', c, ' '} : std::string(1, c);
  }
  const auto pairs = [](const std::string& from, const auto& matches, const auto& with) {
    std::string to;
    for (size_t i = 0; i < from.size(); ++i) {
      if (i + 1 < from.size() && matches(from[i], from[i + 1])) {
        to += with(from[i], from[i + 1]);
        ++i;
      } else {
        to += from[i];
      }
    }
    return to;
  };
  const auto behind = [](char a, char b) { return std::string{a, ' ', b, ' '}; };
  const auto before = [](char a, char b) { return std::string{' ', a, ' ', b}; };
  spaced = pairs(spaced, [](char a, char b) { return !IsDigit(a) && IsPoint(b); }, behind);
  spaced = pairs(spaced, [](char a, char b) { return IsPoint(a) && !IsDigit(b); }, before);
  spaced = pairs(spaced, [](char a, char b) { return IsDigit(a) && b == '-'; }, behind);

  std::vector<std::string> words;
  std::string word;
  for (size_t i = 0; i < spaced.size();) {
    const size_t space = SpaceLength(std::string_view(spaced).substr(i));
    if (space > 0) {
      if (!word.empty()) words.push_back(std::exchange(word, {}));
      i += space;
    } else {
      word += spaced[i++];
    }
  }
  if (!word.empty()) words.push_back(word);
  return words;
}

Bleu CorpusBleu(const std::vector<std::string>& hypotheses, const std::vector<std::vector<std::string>>& references) {
  Check(hypotheses.size() == references.size(), "each hypothesis has its references");
  Bleu bleu;
  std::array<int64_t, kOrders> matches = {}, totals = {};
  for (size_t i = 0; i < hypotheses.size(); ++i) {
    const std::vector<std::string> words = TokenizeForBleu(hypotheses[i]);
    const int64_t length = static_cast<int64_t>(words.size());
    Ngrams most;  // how often a reference has an n-gram at most
    int64_t closest = -1;
    for (const std::string& reference : references[i]) {
      const std::vector<std::string> theirs = TokenizeForBleu(reference);
      const int64_t size = static_cast<int64_t>(theirs.size());
      const int64_t distance = std::abs(size - length), best = std::abs(closest - length);
      if (closest < 0 || distance < best || (distance == best && size < closest)) closest = size;
      for (const auto& [ngram, count] : Count(theirs)) most[ngram] = std::max(most[ngram], count);
    }
    bleu.words += length;
    bleu.reference_words += std::max<int64_t>(0, closest);
    for (const auto& [ngram, count] : Count(words, &totals)) {
      const auto found = most.find(ngram);
      if (found == most.end()) continue;
      const auto order = static_cast<size_t>(std::count(ngram.begin(), ngram.end(), ' '));
      matches[order] += std::min(count, found->second);
    }
  }
  bleu.brevity_penalty = bleu.words >= bleu.reference_words ? 1
                         : bleu.words == 0
                             ? 0
                             : std::exp(1 - static_cast<double>(bleu.reference_words) / static_cast<double>(bleu.words));
  if (std::all_of(matches.begin(), matches.end(), [](int64_t count) { return count == 0; })) return bleu;
  double smooth = 1, sum = 0;
  bool all = true;
  for (size_t order = 0; order < kOrders; ++order) {
    if (totals[order] == 0) {
      all = false;
      break;
    }
    const double total = static_cast<double>(totals[order]);
    if (matches[order] == 0) smooth *= 2;
    bleu.precisions[order] = matches[order] == 0 ? 100 / (smooth * total) : 100 * static_cast<double>(matches[order]) / total;
    sum += std::log(bleu.precisions[order]);
  }
  bleu.score = all ? bleu.brevity_penalty * std::exp(sum / kOrders) : 0;
  return bleu;
}

}  // namespace cambium
