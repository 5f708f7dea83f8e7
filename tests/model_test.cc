// The one forward against PyTorch's numbers, and law 2 with ==.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "model/transformer.h"
#include "test_model.h"

namespace cambium {
namespace {

const char* const kFamilies[] = {"llama", "llama3", "mistral", "qwen2", "qwen3", "gemma3", "gpt2",
                                 "phi3", "phi4mini", "gemma2", "olmo2", "granite", "starcoder2", "gptneox",
                                 "gptneox_serial"};

nlohmann::json ReadJson(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  return nlohmann::json::parse(file);
}

std::string FamilyPath(const std::string& family) { return std::string(CAMBIUM_TEST_DIR) + "/golden/families/" + family; }

using Rows = std::vector<std::vector<float>>;

// Logits of every id, computed in chunks of `chunk` rows.
Rows Logits(Transformer& transformer, std::span<const int32_t> ids, Compute compute, DType kv_type, size_t chunk,
            KvCache* shared = nullptr) {
  KvCache own(transformer.config(), kv_type, static_cast<int64_t>(ids.size()));
  KvCache& kv = shared ? *shared : own;
  const KvCache::Id sequence = kv.Open();
  Rows rows;
  for (size_t begin = 0; begin < ids.size(); begin += chunk) {
    const auto part = ids.subspan(begin, std::min(chunk, ids.size() - begin));
    Pass pass;
    pass.compute = compute;
    pass.kv = &kv;
    pass.Append(sequence, static_cast<int64_t>(begin), part);
    pass.logit_rows.resize(part.size());
    std::iota(pass.logit_rows.begin(), pass.logit_rows.end(), 0);
    transformer.Forward(pass);
    for (size_t i = 0; i < part.size(); ++i) {
      const float* row = pass.result.logits.row(static_cast<int64_t>(i));
      rows.emplace_back(row, row + pass.result.logits.columns());
    }
    CommitAll(pass);
  }
  return rows;
}

double MaxDifference(const std::vector<float>& got, const std::vector<float>& want) {
  if (got.size() != want.size()) return INFINITY;
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(static_cast<double>(got[i]) - want[i]);
    if (!(difference <= worst)) worst = difference;
  }
  return worst;
}

TEST(MaxDifference, SeesWhatDiffers) {
  EXPECT_EQ(MaxDifference({1, 2}, {1, 2.5f}), 0.5);
  EXPECT_FALSE(MaxDifference({1, NAN}, {1, 2}) < 1e9);
  EXPECT_FALSE(MaxDifference({1}, {1, 2}) < 1e9);
}

class Family : public testing::TestWithParam<const char*> {};

TEST_P(Family, MatchesTransformersInFp32) {
  ThreadPool pool(2);
  Transformer transformer(LoadWeights(pool, FamilyPath(GetParam())), pool);
  const nlohmann::json golden = ReadJson(FamilyPath(GetParam()) + "/golden.json");
  const auto ids = golden["ids"].get<std::vector<int32_t>>();
  const Rows got = Logits(transformer, ids, Compute::kF32, DType::kF32, ids.size());
  for (size_t i = 0; i < golden["rows"].size(); ++i) {
    const auto want = golden["logits"][i].get<std::vector<float>>();
    EXPECT_LT(MaxDifference(got[golden["rows"][i].get<size_t>()], want), 1e-4) << "row " << golden["rows"][i];
  }
  for (size_t row = 0; row < ids.size(); ++row) {
    EXPECT_EQ(std::max_element(got[row].begin(), got[row].end()) - got[row].begin(), golden["argmax"][row].get<int64_t>());
  }
}

TEST_P(Family, ARowDoesNotKnowItsCompany) {
  ThreadPool two(2), one(1);
  Transformer transformer(LoadWeights(two, FamilyPath(GetParam())), two);
  Transformer single(LoadWeights(one, FamilyPath(GetParam())), one);
  const auto ids = ReadJson(FamilyPath(GetParam()) + "/golden.json")["ids"].get<std::vector<int32_t>>();
  for (const Compute compute : {Compute::kF32, Compute::kInt8, Compute::kBF16}) {
    const Rows whole = Logits(transformer, ids, compute, DType::kF16, ids.size());
    for (const size_t chunk : {size_t{1}, size_t{3}, size_t{16}, size_t{33}}) {
      EXPECT_EQ(Logits(transformer, ids, compute, DType::kF16, chunk), whole) << "chunk " << chunk;
    }
    EXPECT_EQ(Logits(single, ids, compute, DType::kF16, 7), whole) << "one thread";
  }
}

INSTANTIATE_TEST_SUITE_P(All, Family, testing::ValuesIn(kFamilies), [](const auto& info) { return std::string(info.param); });

// A tree's rows get what a chain of their ancestors gets; commits keep it so.
TEST_P(Family, TreesAndBatchesEqualChains) {
  ThreadPool pool(2);
  Transformer transformer(LoadWeights(pool, FamilyPath(GetParam())), pool);
  const auto ids = ReadJson(FamilyPath(GetParam()) + "/golden.json")["ids"].get<std::vector<int32_t>>();
  const Compute compute = Compute::kInt8;
  const size_t past = 29;
  // Node 0 is the next token; two paths leave it: 1-2-3 (the true text) and 4-5.
  const std::vector<int32_t> tokens = {ids[29], ids[30], ids[31], ids[32], 5, 6};
  const std::vector<int32_t> parents = {-1, 0, 1, 2, 0, 4};
  KvCache kv(transformer.config(), DType::kF16, 256);
  const KvCache::Id sequence = kv.Open(), other = kv.Open();
  Pass prompt;
  prompt.kv = &kv;
  prompt.compute = compute;
  prompt.Append(sequence, 0, std::span(ids).first(past));
  transformer.Forward(prompt);
  CommitAll(prompt);

  Pass tree;
  tree.kv = &kv;
  tree.compute = compute;
  tree.Append(other, 0, std::span(ids).subspan(3, 11));  // company in the batch
  tree.Append(sequence, static_cast<int64_t>(past), tokens, parents);
  for (int32_t i = 0; i < 17; ++i) tree.logit_rows.push_back(i);
  transformer.Forward(tree);
  Rows got;
  for (int64_t i = 0; i < 17; ++i) got.emplace_back(tree.result.logits.row(i), tree.result.logits.row(i) + tree.result.logits.columns());
  kv.Commit(sequence, std::vector<int32_t>{0, 4, 5});

  std::vector<int32_t> main_path(ids.begin(), ids.begin() + 33);
  const Rows chain = Logits(transformer, main_path, compute, DType::kF16, 64);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(got[11 + i], chain[past + i]) << "node " << i;
  std::vector<int32_t> side_path(ids.begin(), ids.begin() + 30);
  side_path.insert(side_path.end(), {5, 6, 7});
  const Rows side = Logits(transformer, side_path, compute, DType::kF16, 64);
  EXPECT_EQ(got[11 + 4], side[30]);
  EXPECT_EQ(got[11 + 5], side[31]);
  EXPECT_EQ(got[0], Logits(transformer, std::span(ids).subspan(3, 1), compute, DType::kF16, 1)[0]);

  Pass next;
  next.kv = &kv;
  next.compute = compute;
  const int32_t seven[] = {7};
  next.Append(sequence, kv.length(sequence), seven);
  next.logit_rows = {0};
  transformer.Forward(next);
  EXPECT_EQ(std::vector<float>(next.result.logits.row(0), next.result.logits.row(0) + next.result.logits.columns()), side[32]);
}

}  // namespace
}  // namespace cambium
