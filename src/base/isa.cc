#include "base/isa.h"

#include <cstdlib>
#include <string_view>

#include "base/simd_targets.h"
#include "cambium/error.h"
#include "hwy/highway.h"
#include "hwy/targets.h"

namespace cambium {
namespace {

struct Isa {
  const char* name;
  int64_t target;
};
constexpr Isa kIsas[] = {{"avx3_dl", HWY_AVX3_DL}, {"avx2", HWY_AVX2}, {"emu128", HWY_EMU128}};

}  // namespace

void ApplyIsaFromEnv() {
  const char* value = std::getenv("CAMBIUM_ISA");
  if (value == nullptr || *value == '\0') return;
  for (const Isa& isa : kIsas) {
    if (std::string_view(value) != isa.name) continue;
    hwy::SetSupportedTargetsForTest(0);
    if ((hwy::SupportedTargets() & isa.target) == 0) {
      Fail(ErrorCode::kUsage, "CAMBIUM_ISA: this CPU cannot run ", value);
    }
    hwy::SetSupportedTargetsForTest(isa.target);
    hwy::GetChosenTarget().DeInit();  // tables already chosen are chosen again
    return;
  }
  Fail(ErrorCode::kUsage, "CAMBIUM_ISA: '", value, "' is not one of avx3_dl, avx2, emu128");
}

const char* IsaName() {
  const int64_t supported = hwy::SupportedTargets();
  for (const Isa& isa : kIsas) {
    if ((supported & isa.target) != 0) return isa.name;
  }
  return "emu128";
}

}  // namespace cambium
