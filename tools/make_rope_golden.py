#!/usr/bin/env python3
"""RoPE's frequencies as transformers computes them (modeling_rope_utils.py): tests/golden/rope.json.

usage: make_rope_golden.py OUT    needs torch and transformers
"""
import json
import sys

from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

YARN = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 32}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
SCALINGS = [
    {"rope_type": "linear", "factor": 4.0},
    {"type": "linear", "factor": 2.5},
    YARN,
    {**YARN, "type": "yarn", "rope_type": None},
    {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    {**YARN, "mscale": 0.707, "mscale_all_dim": 1.0},
    {**YARN, "mscale": 1.3, "mscale_all_dim": 0.8},
    {**YARN, "mscale": 1.3},
    {**YARN, "mscale_all_dim": 0.8},
    {**YARN, "mscale": 0, "mscale_all_dim": 0},
    {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "attention_factor": 0.9},
    {**YARN, "attention_factor": 1.0},
    {**YARN, "attention_factor": None},
    {**YARN, "truncate": False},
    {**YARN, "truncate": True, "beta_fast": 8, "beta_slow": 2},
    {**YARN, "truncate": False, "beta_fast": 40.5, "beta_slow": 0.5},
    {**YARN, "beta_fast": 0, "beta_slow": None},
    {**YARN, "factor": 0.5},
    {"rope_type": "yarn", "factor": 4.0},
    LLAMA3,
    {**LLAMA3, "low_freq_factor": 2.0, "high_freq_factor": 8.0},
    {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 128},
]


def main():
    cases = []
    for theta in (10000.0, 500000.0):
        for scaling in SCALINGS:
            scaling = {key: value for key, value in scaling.items() if key not in ("rope_type", "type") or value}
            config = LlamaConfig(hidden_size=128, num_attention_heads=2, num_key_value_heads=1, intermediate_size=64,
                                 num_hidden_layers=1, max_position_embeddings=512, vocab_size=64, rope_theta=theta)
            config.rope_scaling = scaling
            kind = scaling.get("rope_type", scaling.get("type"))
            inv_freq, attention = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
            cases.append({"rope_theta": theta, "rope_scaling": scaling, "inv_freq": inv_freq.tolist(),
                          "attention": float(attention)})
    with open(sys.argv[1], "w") as out:
        json.dump(cases, out, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
