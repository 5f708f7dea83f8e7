#pragma once

#include <memory>

#include "base/random.h"
#include "grafts/grafts.h"
#include "model/transformer.h"

namespace cambium {

// A LoRA with a B that is not zero: all factors drawn, `spread` wide.
inline std::unique_ptr<Graft> RandomLora(Transformer& model, uint64_t seed, GraftOptions options, float spread = 0.1f) {
  options.seed = seed;
  std::unique_ptr<Graft> graft = MakeGraft("lora", options, model.base());
  uint64_t stream = 0;
  graft->VisitParams([&](Parameter& p) {
    const Philox noise(seed);
    ++stream;
    if (p.name.ends_with("magnitude_vector")) return;
    for (int64_t i = 0; i < p.value.size(); ++i) {
      p.value.f32()[i] = spread * static_cast<float>(noise.Normal(static_cast<uint64_t>(i), stream));
    }
  });
  graft->AfterUpdate();
  return graft;
}

}  // namespace cambium
