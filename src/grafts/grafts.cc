#include "grafts/grafts.h"

#include "cambium/error.h"
#include "grafts/lora.h"

namespace cambium {

std::unique_ptr<Graft> MakeGraft(const std::string& kind, const GraftOptions& options, Transformer& model) {
  if (kind == "lora") return std::make_unique<LoraGraft>(options, model);
  Fail(ErrorCode::kUsage, "graft is \"", kind, "\", expected lora");
}

std::unique_ptr<Graft> LoadGraft(const std::string& directory, Transformer& model) {
  return LoraGraft::Load(directory, model);
}

}  // namespace cambium
