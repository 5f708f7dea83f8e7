#include "engine/curve_file.h"

#include <fmt/format.h>

#include "base/isa.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "io/model_cache.h"

namespace cambium {
namespace {

constexpr double kLeastMs = 0.5;
constexpr double kMostMs = 1e6;

std::string Folder() {
  try {
    return CacheHome() + "/curves";
  } catch (const Error&) {
    return {};
  }
}

}  // namespace

CurveFile::CurveFile(const ModelInfo& info, Compute compute, DType kv) : folder_(Folder()) {
  path_ =
      fmt::format("{}/{}-{}x{}-{}-{}-{}-{}-{}.json", folder_, info.family, info.layers, info.hidden, info.weight_bytes,
                  IsaName(), info.threads, compute == Compute::kInt8 ? "int8" : "f32", Info(kv).name);
}

VerifyCurve CurveFile::Read() const {
  VerifyCurve curve;
  if (folder_.empty()) return curve;
  try {
    const MappedFile file(path_);
    const nlohmann::json kept =
        ParseJson({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, path_);
    for (const auto& [rows, ms] : kept.at("passes_ms").items()) {
      const double time = ms.get<double>();
      if (time > 0 && time < kMostMs) curve.Measure(std::stoll(rows), time);
    }
  } catch (const std::exception&) {
    return {};
  }
  return curve;
}

void CurveFile::Write(const VerifyCurve& curve) const {
  const std::vector<VerifyCurve::Point> points = curve.Known();
  if (folder_.empty() || points.empty() || points.front().rows != 1 || points.front().ms < kLeastMs) return;
  nlohmann::ordered_json passes;
  for (const auto& [rows, ms] : points) passes[std::to_string(rows)] = ms;
  try {
    MakeDirectories(folder_);
    AtomicFile file(path_);
    file.Write(nlohmann::ordered_json{{"passes_ms", passes}}.dump() + "\n");
    file.Commit();
  } catch (const Error&) {  // a directory that is not ours to write
  }
}

}  // namespace cambium
