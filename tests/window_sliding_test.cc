// SlidingMax and its kin against their definitions.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <numeric>
#include <vector>

#include "cambium/sliding_max.h"
#include "ops_testing.h"

namespace cambium {
namespace {

// IEEE 754-2019 maximum and minimum, from the words of the standard and not from the keys.
template <class T>
bool Beats(T a, T b, bool minimum) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(b)) return false;
    if (std::isnan(a)) return true;
    if (a == 0 && b == 0) return minimum ? std::signbit(a) && !std::signbit(b) : !std::signbit(a) && std::signbit(b);
  }
  return minimum ? a < b : a > b;
}
template <class T>
bool Same(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  }
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}
template <class T>
std::vector<int64_t> BruteArg(const std::vector<T>& values, int64_t k, bool minimum) {
  std::vector<int64_t> places;
  for (int64_t i = 0; i + k <= static_cast<int64_t>(values.size()); ++i) {
    int64_t best = i;
    for (int64_t j = i + 1; j < i + k; ++j) {
      if (Beats(values[j], values[best], minimum)) best = j;
    }
    places.push_back(best);
  }
  return places;
}

// Everything at once; empty when all forms agree with the brute force, else what differs.
template <class T, bool kMin>
std::string Differs(const std::vector<T>& values, int64_t k, const std::vector<int64_t>& want) {
  const int64_t count = want.size(), n = values.size();
  // Every alignment of the output that vectors can see, with guards around it.
  const T guard = static_cast<T>(77);
  for (int64_t shift : {0, 1, 5}) {
    std::vector<T> room(count + shift + 1, guard);
    const std::span<T> out(room.data() + shift, count);
    kMin ? SlidingMin<T>(values, k, out) : SlidingMax<T>(values, k, out);
    for (int64_t i = 0; i < count; ++i) {
      if (!Same(out[i], values[want[i]])) return "batch at " + std::to_string(i) + " shift " + std::to_string(shift);
    }
    if (room.back() != guard || (shift > 0 && room[shift - 1] != guard)) return "batch wrote outside";
  }
  std::vector<T> in_place = values;
  if (count > 0) {
    kMin ? SlidingMin<T>(in_place, k, std::span<T>(in_place).first(count))
         : SlidingMax<T>(in_place, k, std::span<T>(in_place).first(count));
    for (int64_t i = 0; i < count; ++i) {
      if (!Same(in_place[i], values[want[i]])) return "in place at " + std::to_string(i);
    }
  }
  std::vector<int64_t> places(count);
  kMin ? SlidingArgMin<T>(values, k, places) : SlidingArgMax<T>(values, k, places);
  if (places != want) return "arg";
  SlidingExtreme<T, kMin> stream(k);
  for (int64_t i = 0; i < n; ++i) {
    const T value = stream.Push(values[i]);
    if (!stream.full()) continue;
    if (!Same(value, values[want[i - k + 1]])) return "stream at " + std::to_string(i);
    if (stream.index() != want[i - k + 1]) return "stream index at " + std::to_string(i);
  }
  return "";
}
template <class T>
void ExpectAll(const std::vector<T>& values, int64_t k) {
  ASSERT_EQ((Differs<T, false>(values, k, BruteArg(values, k, false))), "") << "max, n " << values.size() << " k " << k;
  ASSERT_EQ((Differs<T, true>(values, k, BruteArg(values, k, true))), "") << "min, n " << values.size() << " k " << k;
}

template <class T>
T Draw(int kind) {
  if constexpr (std::is_floating_point_v<T>) {
    const T special[] = {0,
                         -T(0),
                         1,
                         -1,
                         std::numeric_limits<T>::infinity(),
                         -std::numeric_limits<T>::infinity(),
                         std::numeric_limits<T>::denorm_min(),
                         std::numeric_limits<T>::quiet_NaN(),
                         -std::numeric_limits<T>::quiet_NaN()};
    if (kind == 0) return special[*rc::gen::inRange(0, 9)];
    return static_cast<T>(*rc::gen::inRange(-1000000, 1000000)) / 7;
  } else {
    if (kind == 0) return *rc::gen::element(T(0), T(1), std::numeric_limits<T>::min(), std::numeric_limits<T>::max());
    return *rc::gen::inRange<T>(-1000000, 1000000);
  }
}

template <class T>
class SlidingTest : public ::testing::Test {};
using Types = ::testing::Types<int32_t, int64_t, float, double>;
TYPED_TEST_SUITE(SlidingTest, Types);

TYPED_TEST(SlidingTest, Examples) {
  const std::vector<TypeParam> values = {1, 3, -1, -3, 5, 3, 6, 7};
  EXPECT_EQ(SlidingMax(values, 3), (std::vector<TypeParam>{3, 3, 5, 5, 6, 7}));
  EXPECT_EQ(SlidingMin(values, 3), (std::vector<TypeParam>{-1, -3, -3, -3, 3, 3}));
  EXPECT_EQ(SlidingMax(std::vector<TypeParam>{1}, 1), std::vector<TypeParam>{1});
}

TYPED_TEST(SlidingTest, AgreesWithBruteForceOnEveryIsa) {
  testing::ForEachIsa([] {
    EXPECT_TRUE(rc::check([] {
      const auto kind = *rc::gen::inRange(0, 2);
      std::vector<TypeParam> values(*rc::gen::inRange(0, 400));
      for (auto& value : values) value = Draw<TypeParam>(kind);
      const auto k = *rc::gen::inRange<int64_t>(1, values.size() + 3);
      RC_ASSERT((Differs<TypeParam, false>(values, k, BruteArg(values, k, false))) == "");
      RC_ASSERT((Differs<TypeParam, true>(values, k, BruteArg(values, k, true))) == "");
    }));
  });
}

// A linear reference for lengths that brute force cannot reach: sparse table by doubling, first of equals.
template <class T>
std::vector<int64_t> TableArg(const std::vector<T>& values, int64_t k, bool minimum) {
  std::vector<int64_t> best(values.size());
  std::iota(best.begin(), best.end(), 0);
  const auto first = [&](int64_t a, int64_t b) { return Beats(values[b], values[a], minimum) ? b : a; };
  int64_t width = 1;
  for (; 2 * width <= k; width *= 2) {
    for (size_t i = 0; i + width < best.size(); ++i) best[i] = first(best[i], best[i + width]);
  }
  std::vector<int64_t> places;
  for (int64_t i = 0; i + k <= static_cast<int64_t>(values.size()); ++i) {
    places.push_back(first(best[i], best[i + k - width]));
  }
  return places;
}

TYPED_TEST(SlidingTest, LongAdversarialShapes) {
  constexpr int64_t kLength = 100000;
  uint64_t state = 1;
  const auto random = [&] { return (state = state * 6364136223846793005u + 1442695040888963407u) >> 40; };
  for (int shape = 0; shape < 6; ++shape) {
    std::vector<TypeParam> values(kLength);
    for (int64_t i = 0; i < kLength; ++i) {
      const int64_t x[] = {i, -i, 5, i % 1000, -(i % 777), static_cast<int64_t>(random())};
      values[i] = static_cast<TypeParam>(x[shape]);
    }
    for (int64_t k : {int64_t{1}, int64_t{2}, int64_t{3}, int64_t{31}, int64_t{127}, int64_t{128}, int64_t{1000},
                      int64_t{2049}, int64_t{50001}, kLength - 1, kLength}) {
      const std::vector<int64_t> largest = TableArg(values, k, false), smallest = TableArg(values, k, true);
      testing::ForEachIsa([&] {
        ASSERT_EQ((Differs<TypeParam, false>(values, k, largest)), "") << shape << " k " << k;
        ASSERT_EQ((Differs<TypeParam, true>(values, k, smallest)), "") << shape << " k " << k;
      });
    }
  }
}

TYPED_TEST(SlidingTest, TheTwoReferencesAgree) {
  const std::vector<TypeParam> values = {4, 4, 1, 9, 9, 2, 4, 0, 9};
  for (int64_t k = 1; k <= 9; ++k) EXPECT_EQ(TableArg(values, k, false), BruteArg(values, k, false));
}

TYPED_TEST(SlidingTest, EveryShortLength) {
  std::vector<TypeParam> values;
  for (int n = 1; n <= 70; ++n) {
    values.push_back(static_cast<TypeParam>((n * 37) % 23));
    testing::ForEachIsa([&] {
      for (int k = 1; k <= n; ++k) ExpectAll(values, k);
    });
  }
}

TYPED_TEST(SlidingTest, BadLengths) {
  const std::vector<TypeParam> values = {1, 2, 3};
  EXPECT_TRUE(SlidingMax(values, 4).empty());
  EXPECT_TRUE(SlidingMax(std::vector<TypeParam>{}, 1).empty());
  EXPECT_TRUE(SlidingMax(values, std::numeric_limits<int64_t>::max()).empty());
  EXPECT_THROW(SlidingMax(values, 0), Error);
  EXPECT_THROW(SlidingMax(values, -1), Error);
  EXPECT_THROW(SlidingMax(values, std::numeric_limits<int64_t>::min()), Error);
  EXPECT_THROW(SlidingMaximum<TypeParam>(0), Error);
  std::vector<TypeParam> wrong(1);
  EXPECT_THROW(SlidingMax<TypeParam>(values, 2, wrong), Error);
  SlidingMaximum<TypeParam> endless(std::numeric_limits<int64_t>::max());  // memory follows the values, not k
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(endless.Push(static_cast<TypeParam>(1000 - i)), 1000);
}

// The comparison itself must be able to fail.
TYPED_TEST(SlidingTest, AWrongAnswerIsSeen) {
  const std::vector<TypeParam> values = {1, 3, 2, 5};
  std::vector<int64_t> want = BruteArg(values, 2, false);
  EXPECT_EQ((Differs<TypeParam, false>(values, 2, want)), "");
  want[1] = 2;
  EXPECT_NE((Differs<TypeParam, false>(values, 2, want)), "");
}

TEST(Sliding, NanWinsItsWindowsAndNoOthers) {
  const float nan = std::nanf("");
  const std::vector<float> out = SlidingMax(std::vector<float>{1, nan, 2, 3, 4}, 2);
  EXPECT_TRUE(std::isnan(out[0]) && std::isnan(out[1]));
  EXPECT_EQ(out[2], 3);
  EXPECT_EQ(out[3], 4);
}

TEST(Sliding, MeanMatchesItsDefinition) {
  EXPECT_TRUE(rc::check([](const std::vector<int16_t>& values) {
    const auto k = *rc::gen::inRange<int64_t>(1, 20);
    SlidingMean mean(k);
    for (int64_t i = 0; i < static_cast<int64_t>(values.size()); ++i) {
      const int64_t begin = std::max<int64_t>(0, i + 1 - k);
      double sum = 0;
      for (int64_t j = begin; j <= i; ++j) sum += values[j];
      RC_ASSERT(mean.Push(values[i]) == sum / static_cast<double>(i + 1 - begin));
    }
  }));
  EXPECT_THROW(SlidingMean(0), Error);
}

// The literal rule of TransformerEngine's fused update: maximum over all slots, then roll and clear slot 0; no roll
// when the newest is 0.
TEST(Sliding, AmaxHistoryIsTransformerEngines) {
  EXPECT_TRUE(rc::check([] {
    const auto length = *rc::gen::inRange<int64_t>(1, 9);
    const auto steps = *rc::gen::container<std::vector<int>>(rc::gen::inRange(-2, 12));
    AmaxHistory history(length);
    std::vector<float> slots(length, 0.0f);
    for (int step : steps) {
      const float amax = step == -2 ? std::nanf("") : step == -1 ? std::numeric_limits<float>::infinity() : step;
      slots[0] = amax;
      float want = 0;
      for (float slot : slots) want = std::fmax(want, slot);
      if (amax != 0) std::rotate(slots.begin(), slots.begin() + 1, slots.end());
      slots[0] = 0;
      RC_ASSERT(history.Push(amax) == want);
    }
  }));
  EXPECT_THROW(AmaxHistory(0), Error);
}

}  // namespace
}  // namespace cambium
