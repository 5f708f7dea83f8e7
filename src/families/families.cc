#include "families/family.h"

namespace cambium {

// One line each. Of several that GGUF calls alike, those that claim a file come first.
#define CAMBIUM_FAMILIES(FAMILY) \
  FAMILY(kMixtral)               \
  FAMILY(kMistral)               \
  FAMILY(kLlama)                 \
  FAMILY(kQwen2)                 \
  FAMILY(kQwen3)                 \
  FAMILY(kQwen2Moe)              \
  FAMILY(kQwen3Moe)              \
  FAMILY(kGemma2)                \
  FAMILY(kGemma3)                \
  FAMILY(kPhi3)                  \
  FAMILY(kOlmo2)                 \
  FAMILY(kGranite)               \
  FAMILY(kStarcoder2)            \
  FAMILY(kGptNeox)               \
  FAMILY(kGpt2)                  \
  FAMILY(kBart)

#define DECLARED(name) extern const Family name;
CAMBIUM_FAMILIES(DECLARED)

std::span<const Family* const> Families() {
#define LISTED(name) &name,
  static constexpr const Family* kFamilies[] = {CAMBIUM_FAMILIES(LISTED)};
  return kFamilies;
}

}  // namespace cambium
