#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>

#include "cambium/error.h"
#include "grafts/grafts.h"
#include "model/heads.h"

namespace cambium {

// Values that differ from parameter to parameter, norms around 1.
inline void Fill(Graft& graft, double size) {
  graft.VisitParams([&](Parameter& p) {
    const double sum = std::accumulate(p.name.begin(), p.name.end(), 0.0, [](double s, char c) {
      return s + static_cast<unsigned char>(c);
    });
    const bool norm = p.name.find("norm") != std::string::npos;
    for (int64_t i = 0; i < p.value.size(); ++i) {
      p.value.f32()[i] = static_cast<float>(size * std::sin(sum + 0.7 * static_cast<double>(i)) + (norm ? 1 : 0));
    }
  });
  graft.AfterUpdate();
}

// Logits of one depth over a text, as training runs it.
struct Guess {
  OwnedTensor features, state, logits;
};
inline Guess RunHeads(Heads& heads, ThreadPool& pool, int64_t depth, Tensor input, std::span<const int32_t> tokens) {
  Workspace workspace;
  const int64_t lengths[] = {input.rows()};
  Guess guess{OwnedTensor({input.rows(), input.columns()}), OwnedTensor({input.rows(), input.columns()}),
              OwnedTensor({input.rows(), heads.readout(depth).out()})};
  heads.Forward({pool, workspace, Compute::kF32, nullptr}, depth, {input, tokens, lengths}, guess.features.view,
                heads.chained() ? guess.state.view : Tensor());
  const Product product[] = {{&heads.readout(depth), guess.logits.view}};
  MatMul(pool, workspace, Compute::kF32, guess.features.view, product);
  return guess;
}

inline double Furthest(Tensor logits, const nlohmann::json& golden) {
  double worst = 0;
  for (int64_t row = 0; row < logits.rows(); ++row) {
    for (int64_t i = 0; i < logits.columns(); ++i) {
      const double want = golden[static_cast<size_t>(row)][static_cast<size_t>(i)].get<double>();
      worst = std::max(worst, std::fabs(want - static_cast<double>(logits.row(row)[i])));
    }
  }
  return worst;
}

// That `run` throws one line which says so.
template <class F>
void Refused(const std::string& says, const F& run) {
  try {
    run();
    ADD_FAILURE() << "taken, but should say: " << says;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << "one line";
  }
}

}  // namespace cambium
