#pragma once

#include <map>
#include <string>
#include <vector>

#include "families/hf_config.h"
#include "io/gguf_writer.h"
#include "io/safetensors.h"

namespace cambium {

// Experts on their way to GGUF, which stacks those of a layer: a tensor [experts, out, in] of matrices [out, in].
class ExpertStacks {
 public:
  // The matrix that is expert `expert` of tensor `name`. kData where it does not go with the others.
  void Add(const std::string& name, int64_t expert, const NamedTensor& tensor, const Tensor& view,
           const HfConfig& config);
  // Hands all to the writer, whose rows come out of `source`. kData naming the first that is missing.
  void Write(GgufWriter& writer, const ShardedSafetensors& source, const HfConfig& config) const;

 private:
  std::map<std::string, std::vector<Tensor>> stacks_;  // by expert; no data: not seen
};

// The way back: the matrices of a stacked tensor, each under `name` with its number in the place of "{}".
struct ExpertMatrix {
  std::string name;
  Tensor view;
};
std::vector<ExpertMatrix> SplitExperts(const std::string& name, const Tensor& stacked);

}  // namespace cambium
