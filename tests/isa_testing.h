#pragma once

#include <gtest/gtest.h>

#include "base/isa.h"
#include "base/simd_targets.h"
#include "hwy/targets.h"

namespace cambium::testing {

// Calls f once for every instruction set that this machine can run and the library was built for.
template <class F>
void ForEachIsa(const F& f) {
  const auto use = [](int64_t only, bool extensions) {
    hwy::SetSupportedTargetsForTest(only);
    hwy::GetChosenTarget().DeInit();
    AllowExtensions(extensions);
  };
  use(0, true);
  const int64_t supported = hwy::SupportedTargets() | HWY_EMU128;
  for (const int64_t target : {HWY_AVX3_DL, HWY_AVX2, HWY_EMU128}) {
    if ((supported & target) == 0) continue;
    for (const bool extensions : {true, false}) {
      use(target, extensions);
      if (extensions && !HasAmx() && GetVnni256() == Vnni256::kNone) continue;
      SCOPED_TRACE(IsaName());
      f();
    }
  }
  use(0, true);
}

}  // namespace cambium::testing
