#include "model/base_model.h"

#include <algorithm>

#include "base/check.h"

namespace cambium {
namespace {

// Refuses what no row of the model stands for: files reach it (a corpus index, a draft model, training data). Negative
// tokens are rows of a graft's own prompt.
void CheckRows(const ModelWeights& weights, Tensor table, std::span<const int32_t> tokens,
               std::span<const int32_t> positions) {
  const int64_t vocab = weights.embedding.out();
  for (const int32_t token : tokens) {
    if (token >= vocab) Fail(ErrorCode::kData, "token id ", token, " is outside the model's ", vocab, " embedding rows");
  }
  if (!table) return;
  const int64_t context = table.rows() - weights.config.position_offset;
  for (const int32_t position : positions) {
    if (position >= 0 && position < context) continue;
    Fail(ErrorCode::kUsage, "position ", position, " is outside the model's ", context, " positions");
  }
}

}  // namespace

void BaseModel::Embed(std::span<const int32_t> tokens, std::span<const int32_t> positions, Tensor y,
                      bool encoder) const {
  const ModelWeights& w = *weights_;
  const int64_t hidden = config().hidden, offset = config().position_offset;
  const Tensor table = encoder ? w.encoder.positions.view : w.positions.view;
  CheckRows(w, table, tokens, positions);
  pool_.Run((static_cast<int64_t>(tokens.size()) + 15) / 16, [&](int64_t task, int) {
    const size_t end = std::min(tokens.size(), static_cast<size_t>(task + 1) * 16);
    for (size_t i = static_cast<size_t>(task) * 16; i < end; ++i) {
      float* row = y.row(static_cast<int64_t>(i));
      if (tokens[i] < 0) {
        std::fill_n(row, hidden, 0.0f);
      } else {
        w.embedding.UnpackRow(tokens[i], row);
      }
      if (config().embedding_scale != 1.0f) {
        for (int64_t j = 0; j < hidden; ++j) row[j] *= config().embedding_scale;
      }
      if (table) {
        const float* position = table.row(positions[i] + offset);
        for (int64_t j = 0; j < hidden; ++j) row[j] += position[j];
      }
    }
  });
}

void BaseModel::EmbedBackward(std::span<const int32_t> tokens, std::span<const int32_t> positions, Tensor dy,
                              Tensor dembedding, Tensor dpositions) const {
  constexpr int64_t kColumns = 64;  // a task's, so that rows of one token add up in their order
  const int64_t hidden = config().hidden;
  pool_.Run((hidden + kColumns - 1) / kColumns, [&](int64_t task, int) {
    const int64_t begin = task * kColumns, end = std::min(hidden, begin + kColumns);
    for (size_t i = 0; i < tokens.size(); ++i) {
      const float* const from = dy.row(static_cast<int64_t>(i));
      if (tokens[i] < 0) continue;  // a row of a graft's own prompt
      float* const to = dembedding.row(tokens[i]);
      for (int64_t j = begin; j < end; ++j) to[j] += config().embedding_scale * from[j];
      if (!dpositions) continue;
      float* const position = dpositions.row(positions[i] + config().position_offset);
      for (int64_t j = begin; j < end; ++j) position[j] += from[j];
    }
  });
}

}  // namespace cambium
