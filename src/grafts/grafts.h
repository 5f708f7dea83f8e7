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

// The list of grafts: one line each in grafts.cc.
struct GraftEntry {
  const char* kind;
  const char* help;
  // A new one, ready to train; null where a kind cannot be trained anew.
  std::unique_ptr<Graft> (*make)(const GraftOptions& options, Transformer& model);
  // Whether the file or directory at `path` (it exists) holds this kind; throws only where it cannot be read at all.
  bool (*recognises)(const std::string& path);
  // Reads it, its effect multiplied by `scale`; kUsage where the kind has no scale other than 1.
  std::unique_ptr<Graft> (*load)(const std::string& path, Transformer& model, float scale);
};
const std::vector<GraftEntry>& GraftList();
std::string GraftKinds();  // "lora, ..." as help and errors name what can be trained

// A graft of a kind of the list, ready to train. kUsage for an unknown kind (naming the known ones), target or bad rank.
// The model must outlive it.
std::unique_ptr<Graft> MakeGraft(const std::string& kind, const GraftOptions& options, Transformer& model);

// Reads whatever graft of the list is at `path`, in the field's format. kData naming file and field; both shapes if it is
// for another base.
std::unique_ptr<Graft> LoadGraft(const std::string& path, Transformer& model, float scale = 1);

// "PATH" or "PATH=SCALE" as --graft takes it; kUsage where the scale is no finite number.
struct GraftSpec {
  std::string path;
  float scale = 1;
};
GraftSpec ParseGraftSpec(const std::string& text);

}  // namespace cambium
