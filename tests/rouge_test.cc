// ROUGE and its stemmer against PyPI's rouge-score (tools/make_rouge_golden.py).
#include "train/rouge.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "train/porter.h"

namespace cambium {
namespace {

nlohmann::json Golden() {
  std::ifstream file(std::string(CAMBIUM_TEST_DIR) + "/golden/rouge.json");
  EXPECT_TRUE(file);
  return nlohmann::json::parse(file);
}

TEST(Porter, StemsAreThoseOfNltk) {
  const nlohmann::json golden = Golden();
  ASSERT_GT(golden["stems"].size(), 1000u);
  for (const auto& one : golden["stems"]) {
    EXPECT_EQ(PorterStem(one[0].get<std::string>()), one[1].get<std::string>()) << one[0];
  }
}

TEST(Rouge, IsThatOfRougeScore) {
  for (const auto& one : Golden()["texts"]) {
    for (const bool stem : {false, true}) {
      const Rouge got = RougeOf(one["text"], one["references"].get<std::vector<std::string>>(), stem);
      const auto& want = one[stem ? "stemmed" : "plain"];
      const RougeScore scores[] = {got.one, got.two, got.longest};
      for (size_t i = 0; i < 3; ++i) {
        EXPECT_NEAR(scores[i].precision, want[i][0].get<double>(), 1e-9) << one["text"] << i;
        EXPECT_NEAR(scores[i].recall, want[i][1].get<double>(), 1e-9) << one["text"] << i;
        EXPECT_NEAR(scores[i].f, want[i][2].get<double>(), 1e-9) << one["text"] << i;
      }
    }
  }
}

TEST(Rouge, MeansAreOverTexts) {
  const Rouge mean = MeanRouge({"a b", "c d"}, {{"a b"}, {"x y"}}, false);
  EXPECT_NEAR(mean.one.f, 0.5, 1e-12);
  EXPECT_NEAR(mean.longest.recall, 0.5, 1e-12);
}

}  // namespace
}  // namespace cambium
