#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cambium {

// The processes that train one run together. Bytes are moved and nothing is added here, so who computes what never
// shows in a result. Members but the first three are collective: all ranks call them, in the same order. Whoever waits
// longer than the deadline throws kRuntime naming who is missing; what another rank failed with is thrown here as well.
class Ranks {
 public:
  virtual ~Ranks() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::string Name(int rank) const = 0;  // "rank 2 (host)"

  // What each has to say, by rank.
  virtual std::vector<std::string> Gather(std::string_view mine) = 0;
  // The same at rank 0; nothing elsewhere.
  virtual std::vector<std::string> GatherAtFirst(std::string_view mine) = 0;
  // `text` becomes what rank 0 has in it.
  virtual void FromFirst(std::string& text) = 0;
  // A vector whose stretch [borders[r], borders[r + 1]) rank r owns. Each rank gets its stretch of the vectors of ranks
  // [0, senders), in their order: take(begin, values) for a piece of each, pieces ascending.
  using Take = std::function<void(int64_t begin, std::span<const float> values)>;
  virtual void ToOwners(std::span<const float> mine, std::span<const int64_t> borders, int senders,
                        const Take& take) = 0;
  // Each rank gets the stretches of the others.
  virtual void FromOwners(std::span<float> all, std::span<const int64_t> borders) = 0;

  // A step's seconds; the slowest decides how long the others are waited for, unless the user said.
  virtual void Took(double seconds) = 0;
};

inline bool IsFirst(const Ranks* ranks) { return ranks == nullptr || ranks->rank() == 0; }

// kUsage naming the first thing in which a rank differs from rank 0, and both ranks' values. Collective.
void RequireAlike(Ranks& ranks, const std::vector<std::pair<std::string, std::string>>& things);

// The sum in the order 0, 1, 2 ... of `count` values, of which this process has every size-th from its rank on.
// Collective.
double SumInOrder(Ranks* ranks, const std::vector<double>& mine, size_t count);

}  // namespace cambium
