// generation_config.json on its way to GGUF's metadata and back.
#include <filesystem>

#include "families/gguf_config.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "io/json.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

// Ours: generation_config.json as it was.
constexpr const char* kGenerationKey = "cambium.generation_config";

// GGUF's defaults for sampling, as gguf-py names them, and generation_config.json's.
constexpr std::pair<const char*, const char*> kSampling[] = {{"general.sampling.temp", "temperature"},
                                                             {"general.sampling.top_p", "top_p"},
                                                             {"general.sampling.min_p", "min_p"},
                                                             {"general.sampling.top_k", "top_k"},
                                                             {"general.sampling.penalty_repeat", "repetition_penalty"}};

}  // namespace

void SetGenerationConfig(GgufWriter& writer, const std::string& directory) {
  const std::string path = directory + "/generation_config.json";
  if (!fs::exists(path)) return;
  const ordered_json config = ParseOrderedJson(ReadTextFile(path, size_t{16} << 20), path);
  if (!config.is_object()) Fail(ErrorCode::kData, path, ": is not an object");
  for (const auto& [key, field] : kSampling) {
    const auto found = config.find(field);
    if (found == config.end() || !found->is_number()) continue;
    if (field != std::string_view("top_k")) {
      writer.Set(key, found->get<float>());
      continue;
    }
    const auto whole =
        static_cast<int32_t>(WholeNumber(nlohmann::json(*found), path + ": top_k", INT32_MIN, INT32_MAX));
    const GgufValue top_k{GgufType::kI32, GgufType::kI32, 1, {reinterpret_cast<const uint8_t*>(&whole), sizeof whole}};
    writer.Set(key, top_k);
  }
  writer.Set(kGenerationKey, config.dump());
}

ordered_json GenerationConfigJson(const GgufFile& file, const HfConfig& config) {
  if (const std::string kept = file.Str(kGenerationKey, ""); !kept.empty()) {
    return ParseOrderedJson(kept, file.path() + ": " + kGenerationKey);
  }
  ordered_json c = ordered_json::object();
  WriteTokenIds(config, c);
  for (const auto& [key, field] : kSampling) {
    const GgufValue* const value = file.Find(key);
    if (value == nullptr) continue;
    c["do_sample"] = true;
    if (field == std::string_view("top_k")) c[field] = file.Ints(key).at(0);
    if (field != std::string_view("top_k")) c[field] = Decimal(file.F64(key));
  }
  return c;
}

}  // namespace cambium
