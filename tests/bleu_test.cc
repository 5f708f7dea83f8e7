// BLEU against sacrebleu (tools/make_bleu_golden.py).
#include "train/bleu.h"

#include <gtest/gtest.h>

#include "io/json.h"

namespace cambium {
namespace {

nlohmann::json Golden() {
  return ParseJson(ReadTextFile(std::string(CAMBIUM_TEST_DIR) + "/golden/bleu.json"), "bleu.json");
}

TEST(Bleu, CutsWordsAsSacrebleu) {
  const nlohmann::json golden = Golden();
  for (const nlohmann::json& entry : golden["words"]) {
    EXPECT_EQ(TokenizeForBleu(entry["line"].get<std::string>()), entry["words"].get<std::vector<std::string>>())
        << entry["line"];
  }
}

TEST(Bleu, ScoresAsSacrebleu) {
  const nlohmann::json golden = Golden();
  for (const nlohmann::json& entry : golden["corpora"]) {
    const Bleu bleu = CorpusBleu(entry["hypotheses"].get<std::vector<std::string>>(),
                                 entry["references"].get<std::vector<std::vector<std::string>>>());
    EXPECT_NEAR(bleu.score, entry["score"].get<double>(), 1e-9) << entry["hypotheses"];
    EXPECT_NEAR(bleu.brevity_penalty, entry["bp"].get<double>(), 1e-12);
    EXPECT_EQ(bleu.words, entry["sys_len"].get<int64_t>());
    EXPECT_EQ(bleu.reference_words, entry["ref_len"].get<int64_t>());
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(bleu.precisions[i], entry["precisions"][i].get<double>(), 1e-9) << i;
  }
}

TEST(Bleu, FallsWhenAWordChanges) {
  const std::vector<std::vector<std::string>> references = {{"a small cheap place by the river"}};
  EXPECT_NEAR(CorpusBleu({"a small cheap place by the river"}, references).score, 100, 1e-9);
  EXPECT_LT(CorpusBleu({"a small cheap place by the sea"}, references).score, 90);
}

}  // namespace
}  // namespace cambium
