#include "base/isa.h"

#if defined(__linux__) && defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>
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
  bool (*extension)();  // beside the target, or null
};
constexpr Isa kIsas[] = {{"amx", HWY_AVX3_DL, HasAmx},
                         {"avx3_dl", HWY_AVX3_DL, nullptr},
                         {"avx_vnni", HWY_AVX2, [] { return GetVnni256() != Vnni256::kNone; }},
                         {"avx2", HWY_AVX2, nullptr},
                         {"emu128", HWY_EMU128, nullptr}};

std::atomic<bool> extensions_allowed = true;

// Tiles are a state of 8 KiB that Linux saves only for processes that ask (Documentation/arch/x86/xstate.rst).
bool RequestTiles() {
#if defined(SYS_arch_prctl) && defined(__x86_64__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  constexpr unsigned kBF16 = 1u << 22, kTile = 1u << 24;  // leaf 7, EDX
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kBF16) != 0 && (edx & kTile) != 0 &&
         __builtin_cpu_supports("avx512bf16") && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Vnni256 FindVnni256() {
#if defined(__x86_64__)
  constexpr unsigned kAvxVnni = 1u << 4;  // leaf 7, subleaf 1, EAX
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & kAvxVnni) != 0) return Vnni256::kVex;
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl")) return Vnni256::kEvex;
#endif
  return Vnni256::kNone;
}

bool Uses(int64_t target) { return extensions_allowed && ChosenTarget() == HWY_CHOSEN_TARGET_SHIFT(target); }

}  // namespace

int64_t ChosenTarget() {
  // Highway remembers the choice; asking the CPU anew costs microseconds under a hypervisor.
  hwy::ChosenTarget& chosen = hwy::GetChosenTarget();
  if (!chosen.IsInitialized()) chosen.Update(hwy::SupportedTargets());
  return int64_t{1} << chosen.GetIndex();
}

bool HasAmx() {
  static const bool granted = RequestTiles();
  return granted && Uses(HWY_AVX3_DL);
}

Vnni256 GetVnni256() {
  static const Vnni256 found = FindVnni256();
  return Uses(HWY_AVX2) ? found : Vnni256::kNone;
}

void AllowExtensions(bool allow) { extensions_allowed = allow; }

void ApplyIsaFromEnv() {
  const char* value = std::getenv("CAMBIUM_ISA");
  if (value == nullptr || *value == '\0') return;
  for (const Isa& isa : kIsas) {
    if (std::string_view(value) != isa.name) continue;
    hwy::SetSupportedTargetsForTest(0);
    bool runs = (hwy::SupportedTargets() & isa.target) != 0;
    hwy::SetSupportedTargetsForTest(isa.target);
    hwy::GetChosenTarget().DeInit();  // tables already chosen are chosen again
    AllowExtensions(isa.extension != nullptr);
    runs = runs && (isa.extension == nullptr || isa.extension());
    if (!runs) Fail(ErrorCode::kUsage, "CAMBIUM_ISA: this CPU cannot run ", value);
    return;
  }
  Fail(ErrorCode::kUsage, "CAMBIUM_ISA: '", value, "' is not one of amx, avx3_dl, avx_vnni, avx2, emu128");
}

const char* IsaName() {
  const int64_t supported = hwy::SupportedTargets();
  for (const Isa& isa : kIsas) {
    if ((supported & isa.target) != 0 && (isa.extension == nullptr || isa.extension())) return isa.name;
  }
  return "emu128";
}

}  // namespace cambium
