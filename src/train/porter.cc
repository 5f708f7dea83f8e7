#include "train/porter.h"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

namespace cambium {
namespace {

// By letter: y is a vowel behind a consonant.
std::vector<bool> Consonants(std::string_view word) {
  std::vector<bool> flags;
  for (size_t i = 0; i < word.size(); ++i) {
    const bool vowel = std::string_view("aeiou").find(word[i]) != std::string_view::npos;
    flags.push_back(word[i] == 'y' ? i == 0 || !flags[i - 1] : !vowel);
  }
  return flags;
}

bool ConsonantAt(std::string_view word, size_t i) { return Consonants(word)[i]; }

// How often a vowel stands before a consonant.
int Measure(std::string_view stem) {
  const std::vector<bool> flags = Consonants(stem);
  int count = 0;
  for (size_t i = 1; i < flags.size(); ++i) count += !flags[i - 1] && flags[i];
  return count;
}

bool HasVowel(std::string_view stem) {
  const std::vector<bool> flags = Consonants(stem);
  return std::find(flags.begin(), flags.end(), false) != flags.end();
}

bool DoubleConsonant(std::string_view word) {
  const size_t n = word.size();
  return n >= 2 && word[n - 1] == word[n - 2] && ConsonantAt(word, n - 1);
}

// Consonant, vowel, consonant other than w, x and y; NLTK: or vowel and consonant alone.
bool EndsCvc(std::string_view word) {
  const std::vector<bool> c = Consonants(word);
  const size_t n = word.size();
  if (n == 2) return !c[0] && c[1];
  if (n < 3) return false;
  return c[n - 3] && !c[n - 2] && c[n - 1] && std::string_view("wxy").find(word[n - 1]) == std::string_view::npos;
}

std::string Cut(std::string_view word, size_t length) { return std::string(word.substr(0, word.size() - length)); }

struct Rule {
  std::string_view suffix, replacement;
};

// The first rule whose suffix fits decides: replaced where the stem's measure is above `above`.
std::string Apply(const std::string& word, std::span<const Rule> rules, int above) {
  for (const Rule& rule : rules) {
    if (!word.ends_with(rule.suffix)) continue;
    const std::string stem = Cut(word, rule.suffix.size());
    // -logi asks of the stem with its l; -ion wants s or t before it.
    const int measure = rule.suffix == "logi" ? Measure(Cut(word, 3)) : Measure(stem);
    const bool fits = rule.suffix != "ion" || (!stem.empty() && (stem.back() == 's' || stem.back() == 't'));
    return measure > above && fits ? stem + std::string(rule.replacement) : word;
  }
  return word;
}

std::string Plurals(const std::string& word) {
  if (word.ends_with("ies")) return Cut(word, word.size() == 4 ? 1 : 2);
  if (word.ends_with("sses")) return Cut(word, 2);
  return word.ends_with("s") && !word.ends_with("ss") ? Cut(word, 1) : word;
}

std::string PastAndIng(const std::string& word) {
  if (word.ends_with("ied")) return Cut(word, word.size() == 4 ? 1 : 2);
  if (word.ends_with("eed")) return Measure(Cut(word, 3)) > 0 ? Cut(word, 1) : word;
  std::string stem;
  if (word.ends_with("ed") && HasVowel(Cut(word, 2))) {
    stem = Cut(word, 2);
  } else if (word.ends_with("ing") && HasVowel(Cut(word, 3))) {
    stem = Cut(word, 3);
  } else {
    return word;
  }
  for (const char* ending : {"at", "bl", "iz"}) {
    if (stem.ends_with(ending)) return stem + "e";
  }
  if (DoubleConsonant(stem)) {
    return std::string_view("lsz").find(stem.back()) == std::string_view::npos ? Cut(stem, 1) : stem;
  }
  return Measure(stem) == 1 && EndsCvc(stem) ? stem + "e" : stem;
}

std::string FinalY(const std::string& word) {
  const size_t n = word.size();
  return word.ends_with('y') && n > 2 && ConsonantAt(word, n - 2) ? Cut(word, 1) + "i" : word;
}

std::string DoubleSuffixes(const std::string& word) {
  static constexpr Rule kRules[] = {
      {"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"},   {"anci", "ance"},   {"izer", "ize"},    {"bli", "ble"},
      {"alli", "al"},     {"entli", "ent"},   {"eli", "e"},       {"ousli", "ous"},   {"ization", "ize"}, {"ation", "ate"},
      {"ator", "ate"},    {"alism", "al"},    {"iveness", "ive"}, {"fulness", "ful"}, {"ousness", "ous"}, {"aliti", "al"},
      {"iviti", "ive"},   {"biliti", "ble"},  {"fulli", "ful"},   {"logi", "log"}};
  if (word.ends_with("alli") && Measure(Cut(word, 4)) > 0) return DoubleSuffixes(Cut(word, 2));
  return Apply(word, kRules, 0);
}

std::string FullAndNess(const std::string& word) {
  static constexpr Rule kRules[] = {{"icate", "ic"}, {"ative", ""}, {"alize", "al"}, {"iciti", "ic"},
                                    {"ical", "ic"},  {"ful", ""},   {"ness", ""}};
  return Apply(word, kRules, 0);
}

std::string LastSuffixes(const std::string& word) {
  static constexpr Rule kRules[] = {{"al", ""},  {"ance", ""},  {"ence", ""}, {"er", ""},  {"ic", ""},
                                    {"able", ""}, {"ible", ""}, {"ant", ""},  {"ement", ""}, {"ment", ""},
                                    {"ent", ""}, {"ion", ""},   {"ou", ""},   {"ism", ""}, {"ate", ""},
                                    {"iti", ""}, {"ous", ""},   {"ive", ""},  {"ize", ""}};
  return Apply(word, kRules, 1);
}

std::string FinalE(const std::string& word) {
  if (!word.ends_with('e')) return word;
  const std::string stem = Cut(word, 1);
  const int measure = Measure(stem);
  return measure > 1 || (measure == 1 && !EndsCvc(stem)) ? stem : word;
}

std::string DoubleL(const std::string& word) {
  return word.ends_with("ll") && Measure(Cut(word, 1)) > 1 ? Cut(word, 1) : word;
}

}  // namespace

std::string PorterStem(std::string_view word) {
  static constexpr std::pair<std::string_view, std::string_view> kIrregular[] = {
      {"sky", "sky"},         {"skies", "sky"},     {"dying", "die"},       {"lying", "lie"},      {"tying", "tie"},
      {"news", "news"},       {"innings", "inning"}, {"inning", "inning"},  {"outings", "outing"}, {"outing", "outing"},
      {"cannings", "canning"}, {"canning", "canning"}, {"howe", "howe"},    {"proceed", "proceed"}, {"exceed", "exceed"},
      {"succeed", "succeed"}};
  for (const auto& [form, stem] : kIrregular) {
    if (word == form) return std::string(stem);
  }
  std::string stem(word);
  if (stem.size() <= 2) return stem;
  for (std::string (*step)(const std::string&) :
       {Plurals, PastAndIng, FinalY, DoubleSuffixes, FullAndNess, LastSuffixes, FinalE, DoubleL}) {
    stem = step(stem);
  }
  return stem;
}

}  // namespace cambium
