#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace cambium {

// What an adapter at `path` is, said without its base: "dialect" (PEFT, AdapterHub, MLX or GGUF), "kind", then what the kind
// has of "variant", "rank", "scale", "length", "linears" {name: [in, out]}, "layers", "hidden", "kv_heads", "head_dim", and
// "parameters" and "base". Null where there is no adapter; kData where its files cannot be read.
nlohmann::ordered_json DescribeAdapter(const std::string& path);

}  // namespace cambium
