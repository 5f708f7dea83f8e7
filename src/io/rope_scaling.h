#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace cambium {

class GgufFile;
class GgufWriter;

// How RoPE's frequencies are stretched; "default" is not at all.
struct RopeScaling {
  std::string type = "default";  // default, linear, llama3, yarn
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  bool truncate = true;                              // yarn: the ramp begins and ends at whole pairs
  double attention = 1;                              // multiplies cos and sin
  int64_t original_context = 0;                      // llama3 and yarn: positions before the stretch

  bool operator==(const RopeScaling&) const = default;
};

// YaRN's growth of the attention, 0.1 m ln(factor) + 1; 1 where nothing is stretched.
double YarnAttention(double factor, double mscale = 1);

// The keys ARCH.rope.scaling.* and ARCH.rope.scale_linear, as llama.cpp reads them (llama-model.cpp,
// llama-context.cpp): linear where no type is given. kData naming key and value for what is not supported.
RopeScaling ReadGgufRopeScaling(const GgufFile& file, const std::string& arch, int64_t context);
// The way back; llama3 has no keys and is not written. kData naming `path` for what GGUF cannot express.
void SetGgufRopeScaling(GgufWriter& writer, const std::string& arch, const RopeScaling& scaling,
                        const std::string& path);
// config.json's rope_scaling; null for "default".
nlohmann::ordered_json RopeScalingJson(const RopeScaling& scaling, const std::string& path);

}  // namespace cambium
