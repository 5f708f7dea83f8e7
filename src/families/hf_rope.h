#pragma once

#include <cstdint>
#include <vector>

#include "io/rope_scaling.h"

namespace cambium {

class HfFields;
struct HfConfig;

// config.rotary_dim for the share of a head that a field gives.
void SetRotary(const HfFields& fields, const char* name, double share, HfConfig& config);
// rope_theta, rope_scaling and rope_parameters (transformers 5), also one for each type of layer.
void ReadHfRope(const HfFields& fields, HfConfig& config);

// Divisors of RoPE's frequencies under "llama3" scaling, [head_dim / 2] (transformers, modeling_rope_utils.py).
std::vector<float> Llama3RopeDivisors(double theta, int64_t head_dim, const RopeScaling& scaling);
// The scaling whose divisors config.rope_divisors are; kData if there is none.
RopeScaling Llama3Scaling(const HfConfig& config);

}  // namespace cambium
