#include "grafts/grafts.h"

#include <charconv>
#include <cmath>
#include <filesystem>

#include "cambium/error.h"
#include "grafts/lora.h"

namespace cambium {

const std::vector<GraftEntry>& GraftList() {
  static const std::vector<GraftEntry> kList = {
      {"lora", "low-rank terms at linears", LoraGraft::Make, LoraGraft::Recognises, LoraGraft::Load},
  };
  return kList;
}

std::string GraftKinds() {
  std::string kinds;
  for (const GraftEntry& entry : GraftList()) {
    if (entry.make != nullptr) kinds += (kinds.empty() ? "" : ", ") + std::string(entry.kind);
  }
  return kinds;
}

std::unique_ptr<Graft> MakeGraft(const std::string& kind, const GraftOptions& options, Transformer& model) {
  for (const GraftEntry& entry : GraftList()) {
    if (kind == entry.kind && entry.make != nullptr) return entry.make(options, model);
  }
  Fail(ErrorCode::kUsage, "graft is \"", kind, "\", expected one of ", GraftKinds());
}

std::unique_ptr<Graft> LoadGraft(const std::string& path, Transformer& model, float scale) {
  if (!std::filesystem::exists(path)) Fail(ErrorCode::kData, path, ": no such file or directory");
  for (const GraftEntry& entry : GraftList()) {
    if (entry.recognises(path)) return entry.load(path, model, scale);
  }
  std::string kinds;
  for (const GraftEntry& entry : GraftList()) kinds += (kinds.empty() ? "" : ", ") + std::string(entry.kind);
  Fail(ErrorCode::kData, path, ": holds no graft of a known kind (", kinds, ")");
}

GraftSpec ParseGraftSpec(const std::string& text) {
  const size_t equals = text.rfind('=');
  if (text.empty() || equals == 0) Fail(ErrorCode::kUsage, "--graft \"", text, "\": a path is missing");
  if (equals == std::string::npos || std::filesystem::exists(text)) return {text};
  GraftSpec spec{text.substr(0, equals)};
  const char *const begin = text.data() + equals + 1, *const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(begin, end, spec.scale);
  if (error != std::errc() || stop != end || !std::isfinite(spec.scale)) {
    Fail(ErrorCode::kUsage, "--graft \"", text, "\": the scale \"", begin, "\" is not a number");
  }
  return spec;
}

}  // namespace cambium
