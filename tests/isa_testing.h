#pragma once

#include <gtest/gtest.h>

#include "base/isa.h"
#include "base/simd_targets.h"
#include "hwy/targets.h"

namespace cambium::testing {

// Calls f once for every instruction set that this machine can run and the library was built for.
template <class F>
void ForEachIsa(const F& f) {
  const auto reset = [] {
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().DeInit();
    AllowAmx(true);
  };
  const auto try_set = [&](int64_t target, bool amx) {
    reset();
    AllowAmx(amx);
    if (((hwy::SupportedTargets() | HWY_EMU128) & target) == 0 || (amx && !HasAmx())) return;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().DeInit();
    SCOPED_TRACE(IsaName());
    f();
  };
  try_set(HWY_AVX3_DL, true);
  for (const int64_t target : {HWY_AVX3_DL, HWY_AVX2, HWY_EMU128}) try_set(target, false);
  reset();
}

}  // namespace cambium::testing
