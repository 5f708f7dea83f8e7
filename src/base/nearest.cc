#include "base/nearest.h"

#include <algorithm>
#include <vector>

namespace cambium {
namespace {

// Damerau's distance in its restricted form: rows of the usual table, of which two are looked back to.
size_t Distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), now(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    now[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) now[j] = std::min(now[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, now);
  }
  return last[b.size()];
}

}  // namespace

std::string Nearest(std::string_view word, std::span<const std::string> words) {
  constexpr size_t kLongest = 100;  // of a word that is compared; the table grows with its square
  std::string nearest;
  size_t least = word.size() / 2 + 1;
  if (word.size() > kLongest) return "";
  for (const std::string& other : words) {
    if (other.size() > kLongest) continue;
    const size_t distance = Distance(word, other);
    if (distance >= least) continue;
    least = distance;
    nearest = other;
  }
  return nearest;
}

std::string NearestHint(std::string_view word, std::span<const std::string> words) {
  const std::string nearest = Nearest(word, words);
  return nearest.empty() ? "" : ", the nearest is " + nearest;
}

}  // namespace cambium
