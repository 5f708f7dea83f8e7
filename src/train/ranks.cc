#include "train/ranks.h"

#include <cstring>
#include <numeric>

#include "base/check.h"
#include "cambium/error.h"

namespace cambium {

void RequireAlike(Ranks& ranks, const std::vector<std::pair<std::string, std::string>>& things) {
  std::string mine;
  for (const auto& [name, value] : things) mine += name + '\0' + value + '\0';
  const std::vector<std::string> all = ranks.Gather(mine);
  const auto next = [](std::string_view& text) {
    const std::string_view word = text.substr(0, text.find('\0'));
    text.remove_prefix(std::min(text.size(), word.size() + 1));
    return std::string(word);
  };
  for (size_t r = 1; r < all.size(); ++r) {
    std::string_view first = all[0], other = all[r];
    while (!first.empty() || !other.empty()) {
      const std::string name = next(first), other_name = next(other), value = next(first), other_value = next(other);
      if (name == other_name && value == other_value) continue;
      Fail(ErrorCode::kUsage, ranks.Name(static_cast<int>(r)), " differs from ", ranks.Name(0), ": ",
           other_name.empty() ? name : other_name, " is ", other_value, ", there ", value);
    }
  }
}

double SumInOrder(Ranks* ranks, const std::vector<double>& mine, size_t count) {
  if (ranks == nullptr) return std::accumulate(mine.begin(), mine.end(), 0.0);
  const std::vector<std::string> all =
      ranks->Gather({reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(double)});
  double sum = 0;
  for (size_t i = 0; i < count; ++i) {
    const std::string& theirs = all[i % all.size()];
    const size_t at = i / all.size() * sizeof(double);
    Check(at + sizeof(double) <= theirs.size(), "each rank has its values");
    double value = 0;
    std::memcpy(&value, theirs.data() + at, sizeof(double));
    sum += value;
  }
  return sum;
}

}  // namespace cambium
