#pragma once

#include <memory>
#include <string>
#include <vector>

#include "grafts/lora.h"
#include "io/safetensors.h"

namespace cambium {

// What fine-tuning changed in each linear's matrix, by singular values: tuned - base = sum of s_i u_i v_i^T. Singular
// vectors come from the eigenvectors of the smaller Gram matrix in double precision, so that singular values below 1e-8
// of the largest are not told from zero.
class WeightDelta {
 public:
  // Keeps `rank` singular values of each linear, or, if rank is 0, the fewest that hold the share `energy` of the
  // squares' sum. kData naming the parameter and both shapes if `tuned` is of another architecture; kUsage for learned
  // positions.
  WeightDelta(const BaseModel& base, const ModelWeights& tuned, int64_t rank, double energy);

  struct Spectrum {
    Site site;
    std::vector<double> squares;  // s_i^2, largest first
    double energy = 0;            // their sum
    int64_t kept = 0;             // singular values
  };
  const std::vector<Spectrum>& spectra() const { return spectra_; }  // of the linears that changed

  int64_t max_rank() const;                 // of what is kept
  double EnergyWithin(int64_t rank) const;  // the share of all linears' energy in the first `rank` of the kept values
  // The kept terms as a LoRA, each cut to `rank` (0: not cut). Null where no linear changed.
  std::unique_ptr<LoraGraft> Terms(int64_t rank, const std::string& base_name) const;

  // Norms, biases, embedding and head, where they differ, with their tuned values; under checkpoints' names.
  std::vector<TensorToWrite> Whole() const;

 private:
  const BaseModel& base_;
  const ModelWeights& tuned_;
  std::vector<Spectrum> spectra_;
  struct Factors {
    OwnedTensor a, b;  // sqrt(s_i) v_i^T [rank, in], sqrt(s_i) u_i [out, rank]
  };
  std::vector<Factors> factors_;
};

}  // namespace cambium
