#include "train/loss_head.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

namespace cambium {

namespace {

// In place: logits [rows, vocab] become weight * (softmax(logits) - softmax(teacher)). Returns the rows' sum of
// KL(softmax(teacher) || softmax(logits)).
double Divergence(ThreadPool& pool, Tensor logits, Tensor teacher, float weight) {
  const int64_t vocab = logits.columns();
  const auto log_sum = [&](const float* row) {
    const float top = *std::max_element(row, row + vocab);
    double sum = 0;
    for (int64_t i = 0; i < vocab; ++i) sum += static_cast<double>(std::exp(row[i] - top));
    return top + static_cast<float>(std::log(sum));
  };
  std::vector<double> loss(static_cast<size_t>(logits.rows()));
  pool.Run(logits.rows(), [&](int64_t r, int) {
    float* const row = logits.row(r);
    const float* const said = teacher.row(r);
    const float own_sum = log_sum(row), said_sum = log_sum(said);
    double sum = 0;
    for (int64_t i = 0; i < vocab; ++i) {
      const float own = row[i] - own_sum, wanted = said[i] - said_sum, share = std::exp(wanted);
      sum += static_cast<double>(share * (wanted - own));
      row[i] = weight * (std::exp(own) - share);
    }
    loss[static_cast<size_t>(r)] = sum;
  });
  return std::accumulate(loss.begin(), loss.end(), 0.0);
}

}  // namespace

int64_t LossHeadChunk(int64_t vocab) { return vocab <= 65536 ? 128 : 64; }

double LossHead(Transformer& model, Compute compute, Tensor hidden, std::span<const int32_t> targets, float row_weight,
                Tensor dhidden, Tensor dhead, const LossReadout& readout) {
  Check(static_cast<int64_t>(targets.size()) == hidden.rows(), "LossHead takes one target a row");
  ThreadPool& pool = model.pool();
  Workspace& workspace = model.workspace();
  const PackedMatrix& head = readout.matrix != nullptr ? *readout.matrix : model.weights().head();
  const int64_t width = hidden.columns(), vocab = head.out();
  // Draft heads learn the logits before the cap, which keeps their order.
  const bool own = readout.matrix == nullptr && !readout.teacher;
  const float cap = own ? model.config().logit_softcap : 0.0f;
  std::vector<int64_t> rows;
  for (size_t row = 0; row < targets.size(); ++row) {
    if (targets[row] >= 0) rows.push_back(static_cast<int64_t>(row));
  }
  if (dhidden) std::memset(dhidden.data, 0, static_cast<size_t>(dhidden.bytes()));

  const size_t row_bytes = static_cast<size_t>(width) * sizeof(float);
  const size_t chunk = static_cast<size_t>(LossHeadChunk(vocab));
  double sum = 0;
  for (size_t begin = 0; begin < rows.size(); begin += chunk) {
    const std::span<const int64_t> some = std::span(rows).subspan(begin, std::min(chunk, rows.size() - begin));
    const int64_t count = static_cast<int64_t>(some.size());
    const Workspace::Mark mark = workspace.GetMark();
    Tensor x = workspace.New({count, width}), logits = workspace.New({count, vocab});
    std::vector<int32_t> wanted;
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(x.row(i), hidden.row(some[static_cast<size_t>(i)]), row_bytes);
      wanted.push_back(targets[static_cast<size_t>(some[static_cast<size_t>(i)])]);
    }
    const float* const bias = readout.matrix != nullptr ? nullptr : model.weights().logit_bias.view.f32();
    const Product product[] = {{&head, logits, bias}};
    MatMul(pool, workspace, compute, x, product);
    if (cap > 0) SoftCap(pool, cap, logits);
    if (!readout.ranks.empty()) {
      pool.Run(count, [&](int64_t i, int) {
        const float* const row = logits.row(i);
        const float target = row[wanted[static_cast<size_t>(i)]];
        readout.ranks[static_cast<size_t>(some[static_cast<size_t>(i)])] =
            static_cast<int32_t>(std::count_if(row, row + vocab, [&](float logit) { return logit > target; }));
      });
    }
    if (!dhidden) {
      std::vector<float> log_probs(some.size());
      TargetLogProbs(pool, logits, wanted, log_probs);
      for (const float log_prob : log_probs) sum -= static_cast<double>(log_prob);
      workspace.Release(mark);
      continue;
    }
    if (readout.teacher) {
      Tensor theirs = workspace.New({count, width}), soft = workspace.New({count, vocab});
      for (int64_t i = 0; i < count; ++i) {
        Convert(pool, readout.teacher.Rows(some[static_cast<size_t>(i)], 1), theirs.Rows(i, 1));
      }
      const Product teacher[] = {{&head, soft}};
      MatMul(pool, workspace, compute, theirs, teacher);
      sum += Divergence(pool, logits, soft, row_weight);
    } else {
      Tensor capped;
      if (cap > 0) {
        capped = workspace.New({count, vocab});
        Convert(pool, logits, capped);
      }
      std::vector<float> loss(some.size());
      const std::vector<float> weights(some.size(), row_weight);
      CrossEntropy(pool, logits, wanted, weights, loss);
      for (const float value : loss) sum += static_cast<double>(value);
      if (cap > 0) SoftCapBackward(pool, cap, capped, logits);
    }
    if (dhead) Gemm(pool, workspace, compute, true, false, 1.0f, logits, x, 1.0f, dhead);
    MatMulBackward(pool, workspace, compute, logits, head, x);
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(dhidden.row(some[static_cast<size_t>(i)]), x.row(i), row_bytes);
    }
    workspace.Release(mark);
  }
  return sum;
}

}  // namespace cambium
