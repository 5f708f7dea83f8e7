// Pages, their counts, copies on write and the prefix index, without a model.
#include "model/kv_cache.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "base/random.h"

namespace cambium {
namespace {

ModelConfig Tiny() {
  ModelConfig c;
  c.layers = 2;
  c.kv_heads = 1;
  c.head_dim = 8;
  return c;
}

class Cache : public testing::Test {
 protected:
  explicit Cache(int64_t slots = 160) : kv_(Tiny(), DType::kF32, slots) {}

  // Writes `mark` into a slot of every layer, as keys and values of a row.
  void Write(KvCache& kv, KvCache::Id id, int64_t slot, float mark) {
    std::vector<float> row(8, mark);
    const Tensor k(row.data(), {1, 1, 8});
    const AttentionSegment at = kv.Segment(id, slot, 0, 1);
    for (int64_t layer = 0; layer < 2; ++layer) StoreKv(pool_, kv.layer(layer), {&at, 1}, k, k);
  }
  float Read(KvCache& kv, KvCache::Id id, int64_t slot) {
    std::vector<float> k(8), v(8);
    const AttentionSegment all = kv.Segment(id, 0, 0, 0);
    LoadKv(kv.layer(1), all.pages, slot, Tensor(k.data(), {1, 1, 8}), Tensor(v.data(), {1, 1, 8}));
    EXPECT_EQ(k, v);
    return k[3];
  }
  // Appends committed rows whose mark is their token.
  void Extend(KvCache& kv, KvCache::Id id, std::span<const int32_t> tokens) {
    ASSERT_TRUE(kv.TryGrow(id, kv.length(id) + std::ssize(tokens)));
    for (const int32_t token : tokens) {
      Write(kv, id, kv.length(id), static_cast<float>(token));
      kv.Commit(id, 1);
    }
  }
  void ExpectHolds(KvCache& kv, KvCache::Id id, std::span<const int32_t> tokens) {
    ASSERT_EQ(kv.length(id), std::ssize(tokens));
    for (size_t i = 0; i < tokens.size(); ++i) EXPECT_EQ(Read(kv, id, static_cast<int64_t>(i)), tokens[i]) << i;
  }
  static std::vector<int32_t> Count(int32_t n, int32_t from = 100) {
    std::vector<int32_t> tokens(static_cast<size_t>(n));
    std::iota(tokens.begin(), tokens.end(), from);
    return tokens;
  }

  ThreadPool pool_{1};
  KvCache kv_;
};

TEST_F(Cache, GrowsAllOrNothing) {
  const KvCache::Id a = kv_.Open(), b = kv_.Open();
  EXPECT_TRUE(kv_.TryGrow(a, 100));  // 7 of 10 pages
  EXPECT_FALSE(kv_.TryGrow(b, 49));
  EXPECT_EQ(kv_.stats().used, 7);
  EXPECT_TRUE(kv_.TryGrow(b, 48));
  EXPECT_THROW(kv_.Grow(b, 49), Error);
  kv_.Close(a);
  EXPECT_TRUE(kv_.TryGrow(b, 160));
  kv_.Close(b);
  EXPECT_EQ(kv_.stats().used, 0);
}

TEST_F(Cache, CommitKeepsAPathAcrossAPageAndTruncateCutsInsideOne) {
  const KvCache::Id a = kv_.Open();
  const std::vector<int32_t> text = Count(14);
  Extend(kv_, a, text);
  ASSERT_TRUE(kv_.TryGrow(a, 20));
  for (int64_t row = 0; row < 6; ++row) Write(kv_, a, 14 + row, static_cast<float>(50 + row));
  const std::vector<int32_t> path = {0, 2, 3, 5};
  kv_.Commit(a, path);
  std::vector<int32_t> want = text;
  for (const int32_t row : path) want.push_back(50 + row);
  ExpectHolds(kv_, a, want);
  kv_.Truncate(a, 5);
  want.resize(5);
  ExpectHolds(kv_, a, want);
  EXPECT_EQ(kv_.stats().used, 1);
}

TEST_F(Cache, AForkSharesPagesAndCopiesTheLastOneWhenItWrites) {
  const KvCache::Id a = kv_.Open();
  std::vector<int32_t> text = Count(40);
  Extend(kv_, a, text);
  const KvCache::Id b = kv_.Fork(a, 37);
  EXPECT_EQ(kv_.stats().used, 3);
  EXPECT_EQ(kv_.stats().shared, 3);
  std::vector<int32_t> other(text.begin(), text.begin() + 37);
  other.push_back(7);
  Extend(kv_, b, std::vector<int32_t>{7});
  text.push_back(8);
  Extend(kv_, a, std::vector<int32_t>{8});
  ExpectHolds(kv_, a, text);
  ExpectHolds(kv_, b, other);
  EXPECT_EQ(kv_.stats().used, 4);
  EXPECT_EQ(kv_.stats().shared, 2);
  kv_.Close(a);
  ExpectHolds(kv_, b, other);
  kv_.Close(b);
  EXPECT_EQ(kv_.stats().used, 0);
}

TEST_F(Cache, WhatWasPublishedIsKnownToTheToken) {
  const std::vector<int32_t> text = Count(39);
  const KvCache::Id a = kv_.Open();
  Extend(kv_, a, text);
  kv_.Publish(a, 1, text, true);
  kv_.Close(a);
  EXPECT_EQ(kv_.stats().known, 3);
  std::vector<int32_t> longer = text;
  longer.resize(36);
  longer.push_back(1);
  longer.push_back(2);
  const KvCache::Id b = kv_.Open();
  EXPECT_EQ(kv_.Known(1, longer), 36);
  EXPECT_EQ(kv_.Attach(b, 1, longer), 36);
  Extend(kv_, b, std::vector<int32_t>{1, 2});
  ExpectHolds(kv_, b, longer);
  // The page that was known is as it was.
  const KvCache::Id c = kv_.Open();
  EXPECT_EQ(kv_.Attach(c, 1, text), 39);
  ExpectHolds(kv_, c, text);
  EXPECT_EQ(kv_.Known(2, text), 0) << "another key";
  kv_.Close(b);
  kv_.Close(c);
}

TEST_F(Cache, TwoThatComputedTheSameHoldItOnce) {
  const std::vector<int32_t> text = Count(32);
  const KvCache::Id a = kv_.Open(), b = kv_.Open();
  Extend(kv_, a, text);
  Extend(kv_, b, text);
  EXPECT_EQ(kv_.stats().used, 4);
  kv_.Publish(a, 1, text);
  kv_.Publish(b, 1, text);
  EXPECT_EQ(kv_.stats().used, 2);
  EXPECT_EQ(kv_.stats().shared, 2);
  kv_.Close(a);
  ExpectHolds(kv_, b, text);
  kv_.Close(b);
}

TEST_F(Cache, ForgetsTheLeastRecentlyUsedLeafFirst) {
  for (int32_t i = 0; i < 3; ++i) {  // three texts of three pages
    const KvCache::Id id = kv_.Open();
    const std::vector<int32_t> text = Count(48, 1000 * i);
    Extend(kv_, id, text);
    kv_.Publish(id, 1, text, true);
    kv_.Close(id);
  }
  EXPECT_EQ(kv_.stats().known, 9);
  const KvCache::Id used = kv_.Open();  // the first is used again
  EXPECT_EQ(kv_.Attach(used, 1, Count(48, 0)), 48);
  kv_.Close(used);
  const KvCache::Id id = kv_.Open();
  ASSERT_TRUE(kv_.TryGrow(id, 3 * 16));  // one is free, two go
  EXPECT_EQ(kv_.stats().evicted, 2);
  EXPECT_EQ(kv_.Known(1, Count(48, 0)), 48);
  EXPECT_EQ(kv_.Known(1, Count(48, 1000)), 16);
  EXPECT_EQ(kv_.Known(1, Count(48, 2000)), 48);
  // All but what is in use can go.
  ASSERT_TRUE(kv_.TryGrow(id, 160));
  EXPECT_EQ(kv_.stats().known, 0);
  kv_.Close(id);
}

TEST_F(Cache, FurtherLayersShareThePages) {
  const int64_t first = kv_.AddLayers(1, 2, 4, DType::kF16);
  EXPECT_EQ(first, 2);
  EXPECT_EQ(kv_.layer(first).kv_heads, 2);
  kv_.DropLayers(first);
  EXPECT_EQ(kv_.AddLayers(1, 1, 8, DType::kF32), 2) << "the place is used again";
}

// Random sequences against plain copies of what each holds.
TEST_F(Cache, RandomUseKeepsEverySequenceItsOwn) {
  const Philox random(11);
  uint64_t at = 0;
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random.Uniform(at++, 0) * static_cast<double>(n)); };
  std::map<KvCache::Id, std::vector<int32_t>> live;
  for (int step = 0; step < 4000; ++step) {
    const int64_t what = below(10);
    if (live.empty() || (what == 0 && live.size() < 5)) {
      std::vector<int32_t> wanted = Count(static_cast<int32_t>(below(60)), static_cast<int32_t>(below(2)) * 500);
      if (below(2) == 0 && !wanted.empty()) wanted[static_cast<size_t>(below(std::ssize(wanted)))] = 3;
      const KvCache::Id id = kv_.Open();
      wanted.resize(static_cast<size_t>(kv_.Attach(id, 1, wanted)));
      live[id] = wanted;
      continue;
    }
    auto victim = live.begin();
    std::advance(victim, below(std::ssize(live)));
    auto& [id, tokens] = *victim;
    if (what < 6) {
      std::vector<int32_t> more;
      for (int64_t i = 0; i < 1 + below(9); ++i) {
        const int64_t next = std::ssize(tokens) + i;
        more.push_back(below(8) == 0 ? 3 : static_cast<int32_t>(next + (below(2) == 0 ? 0 : 500)));
      }
      if (!kv_.TryGrow(id, kv_.length(id) + std::ssize(more))) continue;
      Extend(kv_, id, more);
      tokens.insert(tokens.end(), more.begin(), more.end());
      if (below(2) == 0) kv_.Publish(id, 1, tokens);
    } else if (what == 6) {
      const int64_t length = below(std::ssize(tokens) + 1);
      kv_.Truncate(id, length);
      tokens.resize(static_cast<size_t>(length));
    } else if (what == 7 && live.size() < 5) {
      const int64_t length = below(std::ssize(tokens) + 1);
      const std::vector<int32_t> shared(tokens.begin(), tokens.begin() + length);
      live[kv_.Fork(id, length)] = shared;
    } else if (what == 8) {
      kv_.Publish(id, 1, tokens, true);
      kv_.Close(id);
      live.erase(victim);
    } else {
      ExpectHolds(kv_, id, tokens);
    }
    if (HasFailure()) FAIL() << "step " << step;
    const KvCache::Stats stats = kv_.stats();
    ASSERT_LE(stats.used + stats.known, stats.pages);
  }
  while (!live.empty()) {
    ExpectHolds(kv_, live.begin()->first, live.begin()->second);
    kv_.Close(live.begin()->first);
    live.erase(live.begin());
  }
  EXPECT_EQ(kv_.stats().used, 0);
  kv_.Forget();
  EXPECT_EQ(kv_.stats().known, 0);
}

}  // namespace
}  // namespace cambium
