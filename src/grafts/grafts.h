#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/transformer.h"

namespace cambium {

// How a new graft is made; a kind ignores what it does not know.
struct GraftOptions {
  int64_t rank = 8;
  double alpha = 16;                 // scale of a low-rank term: alpha / rank
  bool rslora = false;               // alpha / sqrt(rank) instead
  double dropout = 0;                // on the input of a low-rank term, while training
  std::vector<std::string> targets;  // names of linears ("q_proj"); empty = all
  uint64_t seed = 0;
  std::string base;  // what the adapter's config names as its base model
};

// A graft of kind "lora", ready to train. kUsage for an unknown kind (naming the known ones), target or bad rank. The
// model must outlive it.
std::unique_ptr<Graft> MakeGraft(const std::string& kind, const GraftOptions& options, Transformer& model);

// Reads a directory in the field's format. kData naming file and field; both shapes if the adapter is for another base.
std::unique_ptr<Graft> LoadGraft(const std::string& directory, Transformer& model);

}  // namespace cambium
