#pragma once

#include <array>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/heads.h"
#include "model/transformer.h"
#include "train/dataset.h"

namespace cambium {

struct HeadsOptions {
  bool teacher = true;        // targets: what the trunk itself says at each place; else the data's tokens
  float decay = 0.8f;         // the loss of depth d counts decay^d
  // With teacher: the features of a guess are drawn to h, the final norm's result where the trunk itself makes that guess;
  // adds weight * |features - h|^2 / |h|^2 (EAGLE, Li et al. 2024, has such a term). 0: the guess alone counts.
  float feature_weight = 0;
  double cache_gb = 2;        // of the trunk's hidden states kept between epochs; 0 = none
  std::vector<Graft*> trunk;  // the fine-tune that the heads are for
  Graft* owner = nullptr;     // full fine-tuning beside the heads: has the gradients of the base's head and embedding
};

// How often the target of a depth was among the first guesses: hits[d][r] at rank r, of rows[d].
struct HeadAccuracy {
  static constexpr size_t kRanks = 10;
  std::vector<std::array<int64_t, kRanks>> hits;
  std::vector<int64_t> rows;

  // Counts the rows' ranks at depth d; -1: not drafted, -2: no target.
  void Count(size_t depth, std::span<const int32_t> ranks);

  explicit HeadAccuracy(int64_t depths = 0) : hits(static_cast<size_t>(depths)), rows(static_cast<size_t>(depths)) {}
  double At(size_t depth, size_t rank) const {
    return rows[depth] == 0 ? 0 : static_cast<double>(hits[depth][rank]) / static_cast<double>(rows[depth]);
  }
  double Top(size_t depth, size_t count) const {
    double sum = 0;
    for (size_t rank = 0; rank < count; ++rank) sum += At(depth, rank);
    return sum;
  }
};

// The loss of draft heads. The trunk runs without a tape, as it is served (int8), once for each text: its hidden states go
// to a file that has no name any more, in 16 bits, up to a bound; what does not fit is computed again. Its mapped pages are
// let go of once copied, so that they count as the system's file cache and not as this process's memory.
class HeadsLoss {
 public:
  // `known` are the data sets whose texts may be cached; they must outlive this. directory empty: no cache.
  HeadsLoss(Transformer& model, Heads& heads, Compute compute, const HeadsOptions& options,
            std::vector<std::span<const Example>> known, const std::string& directory);
  ~HeadsLoss();

  // Sum over depths d and rows of decay^d * (-log p(target) + the features' term). With row_weight > 0 adds the gradients
  // of row_weight times it.
  double Run(const std::vector<const Example*>& micro, float row_weight);

  // The same on states of the trunk that the caller has [rows, hidden]. Adds the gradient of row_weight times the sum to
  // dstates, unless that is empty: so heads shape the trunk beneath them (DeepSeek-V3, 2024, eq. 24-25; Medusa-2).
  double RunOn(const std::vector<const Example*>& micro, Tensor states, float row_weight, Tensor dstates);
  // The trunk's states of the texts [rows, hidden], f16, valid until the next call; RunOn takes the trunk's own guesses of
  // this call as targets.
  Tensor Teacher(const std::vector<const Example*>& micro);

  HeadAccuracy& accuracy() { return accuracy_; }  // of the runs since it was last set
  // The same of the rows where every depth before was right at once: what a chain meets that follows its own guesses.
  const HeadAccuracy& along() const { return along_; }

 private:
  // The trunk's states and guesses of the texts, into hidden_ and said_.
  void Trunk(const std::vector<const Example*>& micro);
  void RunTrunk(const std::vector<const Example*>& micro, const std::vector<int64_t>& begins);
  bool Known(const Example* example) const;
  void CacheFile(const std::string& directory);
  uint8_t* CachePlace(const Example* example, bool reserve);
  bool LearnsFeatures() const { return options_.teacher && options_.feature_weight > 0; }
  // Rows [begin, begin + count) of the trunk's results, a stretch of bytes for each of hidden_, final_ and said_.
  std::vector<std::span<uint8_t>> Parts(int64_t begin, int64_t count);
  int64_t RowBytes() const;  // of all parts
  void Forget(const uint8_t* place, int64_t bytes);
  // What depth d must guess at each row of the texts, as rows of the readout (-1: nothing, -2: not drafted).
  std::vector<int32_t> Targets(const std::vector<const Example*>& micro, int64_t depth) const;
  // ranks [rows] as HeadAccuracy::Count takes them.
  double Loss(int64_t depth, const std::vector<int32_t>& targets, float row_weight, Tensor features, Tensor dfeatures,
              std::span<int32_t> ranks);
  double FeatureLoss(int64_t depth, const std::vector<int32_t>& targets, float row_weight, Tensor features, Tensor dfeatures);

  Transformer& model_;
  Heads& heads_;
  Compute compute_;
  HeadsOptions options_;
  std::vector<std::span<const Example>> known_;
  std::vector<int32_t> draft_row_;  // by token; -1 where it is not drafted
  HeadAccuracy accuracy_, along_;
  OwnedTensor hidden_;  // [most rows, hidden] f16: what the heads read
  OwnedTensor final_;   // the same of the final norm, where the heads read another layer and LearnsFeatures()
  std::vector<int32_t> said_;
  std::unordered_map<const Example*, int64_t> places_;
  uint8_t* cache_ = nullptr;
  int64_t cache_bytes_ = 0, cache_used_ = 0;
  int descriptor_ = -1;
};

}  // namespace cambium
