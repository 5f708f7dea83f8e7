// The rules that judge drafts: match and rejection keep the target's distribution, typical does what it says.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "decode/top.h"
#include "decode/verify.h"

namespace cambium {
namespace {

constexpr int64_t kDraws = 1000000;
constexpr int kVocab = 8;
const std::vector<float> kLogits = {0.3f, -1.2f, 2.0f, 0.0f, 1.1f, -0.4f, 0.9f, -2.0f};

// Chi-square of counts against probabilities; the 0.01 quantile for 7 degrees of freedom is 18.48.
constexpr double kQuantile = 18.48;
double ChiSquare(const std::vector<int64_t>& counts, const std::vector<double>& probabilities) {
  double sum = 0, draws = 0;
  for (const int64_t count : counts) draws += static_cast<double>(count);
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = probabilities[i] * draws;
    sum += (static_cast<double>(counts[i]) - expected) * (static_cast<double>(counts[i]) - expected) / expected;
  }
  return sum;
}

std::vector<double> Softmax(const std::vector<float>& logits) {
  std::vector<double> p;
  double total = 0;
  for (const float logit : logits) total += p.emplace_back(std::exp(static_cast<double>(logit)));
  for (double& value : p) value /= total;
  return p;
}

SamplingOptions Unfiltered(uint64_t seed) {
  SamplingOptions options;
  options.temperature = 1;
  options.top_k = 0;
  options.top_p = 1;
  options.min_p = 0;
  options.seed = seed;
  return options;
}

bool Never(int32_t) { return false; }

struct Counts {
  std::vector<int64_t> first = std::vector<int64_t>(kVocab), second = std::vector<int64_t>(kVocab);
  int64_t accepted = 0;
};

// Verifies make_draft(i), whose rows all have kLogits, at fresh positions every time.
template <class MakeDraft>
Counts Verified(const VerifyRule& rule, const MakeDraft& make_draft) {
  Sampler sampler(Unfiltered(7));
  Counts counts;
  std::vector<int32_t> history;
  std::vector<float> rows;
  for (int64_t i = 0; i < kDraws; ++i) {
    const Draft draft = make_draft(i);
    while (rows.size() < (draft.nodes.size() + 1) * kVocab) rows.insert(rows.end(), kLogits.begin(), kLogits.end());
    history.resize(static_cast<size_t>(3 * i), 0);
    const Tensor logits(rows.data(), {static_cast<int64_t>(draft.nodes.size()) + 1, kVocab});
    const Verdict verdict = Verify(rule, draft, logits, sampler, history, 5, Never);
    ++counts.first[static_cast<size_t>(verdict.tokens[0])];
    if (verdict.tokens.size() > 1) ++counts.second[static_cast<size_t>(verdict.tokens[1])];
    counts.accepted += verdict.tokens.size() > 1;
  }
  return counts;
}

void ExpectTargetsDistribution(const Counts& counts) {
  const std::vector<double> p = Softmax(kLogits);
  EXPECT_LT(ChiSquare(counts.first, p), kQuantile);
  EXPECT_LT(ChiSquare(counts.second, p), kQuantile);
  // A planted bias of 1 % on one token is seen.
  std::vector<double> biased = p;
  biased[2] *= 1.01;
  biased[4] -= 0.01 * p[2];
  EXPECT_GT(ChiSquare(counts.first, biased), kQuantile);
}

Draft TwoChildren(int64_t) {
  Draft draft;
  draft.Add(-1, 2, 0.5f);
  draft.Add(-1, 4, 0.3f);
  return draft;
}

TEST(Verify, DrawsFollowTheTargetsDistribution) {
  const Counts counts = Verified({}, TwoChildren);
  ExpectTargetsDistribution(counts);
  EXPECT_EQ(counts.accepted, counts.first[2] + counts.first[4]) << "accepted is what was drawn and proposed";
}

TEST(Verify, RejectionOfChosenChildrenKeepsTheDistribution) {
  const VerifyRule rule = ParseVerifyRule("rejection");
  const Counts counts = Verified(rule, TwoChildren);
  ExpectTargetsDistribution(counts);
  EXPECT_EQ(counts.accepted, counts.first[2] + counts.first[4]);
}

TEST(Verify, RejectionOfADrawnChildKeepsTheDistributionAndAcceptsTheOverlap) {
  const std::vector<float> draft_logits = {1.5f, 0.2f, 1.0f, -1.0f, 1.0f, 0.4f, -0.5f, -6.0f};
  const std::vector<double> p = Softmax(kLogits), q = Softmax(draft_logits);
  std::vector<Draft::Share> shares;
  for (int32_t token = 0; token < kVocab; ++token) shares.push_back({token, static_cast<float>(q[static_cast<size_t>(token)])});
  const Philox noise(11);
  const auto make_draft = [&](int64_t i) {
    double u = noise.Uniform(static_cast<uint64_t>(i));
    int32_t token = 0;
    while (token < kVocab - 1 && (u -= q[static_cast<size_t>(token)]) >= 0) ++token;
    Draft draft;
    draft.proposals = {shares};
    draft.Add(-1, token, 1);
    return draft;
  };
  const Counts counts = Verified(ParseVerifyRule("rejection"), make_draft);
  ExpectTargetsDistribution(counts);
  double overlap = 0;
  for (size_t i = 0; i < p.size(); ++i) overlap += std::min(p[i], q[i]);
  EXPECT_NEAR(static_cast<double>(counts.accepted) / kDraws, overlap, 0.002);  // 4 standard deviations
  // The same draft taken for a chosen one is accepted less often, and no worse for it.
  const Counts chosen = Verified(ParseVerifyRule("rejection"), [&](int64_t i) {
    Draft draft = make_draft(i);
    draft.proposals.clear();
    return draft;
  });
  ExpectTargetsDistribution(chosen);
  EXPECT_LT(chosen.accepted, counts.accepted * 3 / 4);
}

TEST(Verify, TypicalTakesTheLongestPathOfTypicalTokens) {
  // p = 0.6, 0.2, 0.1, 0.06, 0.04: entropy 1.17, bar min(0.09, 0.3 e^-1.17 = 0.093) = 0.09.
  std::vector<float> row;
  for (const double p : {0.6, 0.2, 0.1, 0.06, 0.04}) row.push_back(static_cast<float>(std::log(p)));
  std::vector<float> rows;
  for (int i = 0; i < 8; ++i) rows.insert(rows.end(), row.begin(), row.end());
  Draft draft;
  draft.Add(-1, 0, 0.6f);                          // likeliest, but a leaf
  const int32_t second = draft.Add(-1, 2, 0.1f);   // typical, and goes on
  draft.Add(-1, 3, 0.1f);                          // below the bar
  const int32_t low = draft.Add(second, 4, 0.1f);  // below the bar
  const int32_t next = draft.Add(second, 1, 0.1f);
  draft.Add(low, 0, 0.1f);
  const Tensor logits(rows.data(), {static_cast<int64_t>(draft.nodes.size()) + 1, 5});
  const auto judged = [&](const std::string& rule, float temperature, int64_t most = 9) {
    SamplingOptions options = Unfiltered(1);
    options.temperature = temperature;
    Sampler sampler(options);
    std::vector<int32_t> history = {1};
    return Verify(ParseVerifyRule(rule), draft, logits, sampler, history, most, Never);
  };
  const Verdict verdict = judged("typical", 1);
  EXPECT_EQ(verdict.path, (std::vector<int32_t>{second, next}));
  ASSERT_EQ(verdict.tokens.size(), 3u);
  EXPECT_EQ(verdict.tokens[0], 2);
  EXPECT_EQ(verdict.tokens[1], 1);
  EXPECT_EQ(judged("typical", 1, 1).tokens, (std::vector<int32_t>{2})) << "no more than asked for";
  // A bar of 0.15 leaves the leaf alone; a greedy target takes what is likeliest, whatever the bar.
  EXPECT_EQ(judged("typical:epsilon=0.15,delta=1", 1).path, (std::vector<int32_t>{0}));
  EXPECT_EQ(judged("typical", 0).path, (std::vector<int32_t>{0}));
  EXPECT_EQ(judged("typical", 0).tokens, (std::vector<int32_t>{0, 0}));
}

TEST(Verify, UnknownRulesAreNamed) {
  for (const char* bad : {"", "exact", "matching", "typical:", "typical:epsilon", "typical:epsilon=0", "typical:delta=x",
                          "typical:delta=2", "typical:epsilon=0.1,", "rejection:epsilon=1"}) {
    try {
      ParseVerifyRule(bad);
      ADD_FAILURE() << bad << " was taken";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("--verify"), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(ParseVerifyRule("typical:delta=0.25").delta, 0.25);
}

TEST(Top, AgreesWithSorting) {
  const Philox noise(3);
  for (const int64_t size : {1, 5, 16, 255, 256, 257, 5000}) {
    std::vector<float> logits;
    for (int64_t i = 0; i < size; ++i) {
      logits.push_back(static_cast<float>(std::round(20 * noise.Normal(static_cast<uint64_t>(i), static_cast<uint64_t>(size))) / 8));
    }
    if (size > 20) logits[20] = std::nanf("");
    std::vector<int32_t> order;
    double total = 0;
    for (int32_t i = 0; i < size; ++i) {
      if (!std::isnan(logits[static_cast<size_t>(i)])) order.push_back(i);
    }
    std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)]; });
    for (const int32_t i : order) total += std::exp(static_cast<double>(logits[static_cast<size_t>(i)]));
    EXPECT_EQ(ArgMax(logits), order.front());
    const std::vector<TopToken> top = TopTokens(logits, 6);
    ASSERT_EQ(top.size(), std::min<size_t>(6, order.size()));
    for (size_t i = 0; i < top.size(); ++i) {
      EXPECT_EQ(top[i].token, order[i]) << size;
      if (size > 20) continue;  // the NaN is in the sum
      const double p = std::exp(static_cast<double>(logits[static_cast<size_t>(order[i])])) / total;
      EXPECT_NEAR(top[i].probability, p, 0.04 * p);
    }
  }
  EXPECT_EQ(ArgMax(std::vector<float>{std::nanf(""), std::nanf("")}), -1);
}

}  // namespace
}  // namespace cambium
