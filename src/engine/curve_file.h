#pragma once

#include <string>

#include "decode/planner.h"
#include "engine/impl.h"

namespace cambium {

// What passes of a model cost on this machine, kept between runs: a file in CacheHome()/curves, named by the model's
// sizes, the instruction set, the threads and the storage of activations and KV cache. It is a cache: one that cannot
// be read or written is done without. What was kept counts as one measurement of each size.
class CurveFile {
 public:
  CurveFile(const ModelInfo& info, Compute compute, DType kv);

  VerifyCurve Read() const;
  // Not written where too little was measured, or a pass takes less than half a millisecond, of which timing says
  // little.
  void Write(const VerifyCurve& curve) const;

 private:
  std::string folder_, path_;  // empty: no cache directory
};

}  // namespace cambium
