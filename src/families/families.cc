#include "families/family.h"

namespace cambium {

// One line each. Of several that GGUF calls alike, those that claim a file come first.
#define CAMBIUM_FAMILIES(FAMILY) \
  FAMILY(kMistral)               \
  FAMILY(kLlama)                 \
  FAMILY(kQwen2)                 \
  FAMILY(kQwen3)                 \
  FAMILY(kGemma3)                \
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
