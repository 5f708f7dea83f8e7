#!/usr/bin/env python3
"""Writes tests/golden/families/NAME/{config.json,model.safetensors,golden.json}: tiny random models of every family and
the logits that `transformers` gives for them in float32 (eager attention). Needs torch, transformers, safetensors.

    python tools/make_family_goldens.py tests/golden/families
"""
import json
import os
import sys

import torch
import transformers as tf

VOCAB = 96
COMMON = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
FAMILIES = {
    "llama": (tf.LlamaConfig(**COMMON, tie_word_embeddings=True, rope_theta=1e5), tf.LlamaForCausalLM),
    "llama3": (tf.LlamaConfig(**COMMON, tie_word_embeddings=False, rope_scaling=LLAMA3), tf.LlamaForCausalLM),
    "mistral": (tf.MistralConfig(**COMMON, head_dim=16, sliding_window=24), tf.MistralForCausalLM),
    "qwen2": (tf.Qwen2Config(**COMMON, tie_word_embeddings=True, rope_scaling=YARN), tf.Qwen2ForCausalLM),
    "qwen3": (tf.Qwen3Config(**COMMON, head_dim=32, tie_word_embeddings=True), tf.Qwen3ForCausalLM),
    "gemma3": (tf.Gemma3TextConfig(**{**COMMON, "num_hidden_layers": 6}, head_dim=32, sliding_window=24,
                                   query_pre_attn_scalar=24), tf.Gemma3ForCausalLM),
    "gpt2": (tf.GPT2Config(vocab_size=VOCAB, n_embd=64, n_layer=3, n_head=4, n_positions=128, bos_token_id=1,
                           eos_token_id=2), tf.GPT2LMHeadModel),
}


def main(out):
    for name, (config, cls) in FAMILIES.items():
        torch.manual_seed(7)
        config._attn_implementation = "eager"
        model = cls(config).eval()
        with torch.no_grad():
            for key, p in model.named_parameters():
                # Norm gains and biases that differ from their defaults, so that a forgotten one shows.
                if p.dim() == 1:
                    p.copy_((0.0 if "bias" in key or name == "gemma3" else 1.0) + 0.2 * torch.randn_like(p))
                else:
                    p.copy_(torch.randn_like(p) * 0.15)
                # The file is bf16, the arithmetic fp32; buffers (RoPE's inv_freq) stay as they are.
                p.copy_(p.to(torch.bfloat16).to(torch.float32))
            ids = torch.randint(3, VOCAB, (1, 70))
            logits = model(ids).logits[0]
            rows = [0, 1, 23, 24, 40, 69]
            golden = {"ids": ids[0].tolist(), "rows": rows, "logits": logits[rows].tolist(),
                      "argmax": logits.argmax(-1).tolist()}
        path = os.path.join(out, name)
        os.makedirs(path, exist_ok=True)
        model.to(torch.bfloat16).save_pretrained(path, safe_serialization=True)
        for extra in ("generation_config.json",):
            if os.path.exists(os.path.join(path, extra)):
                os.remove(os.path.join(path, extra))
        with open(os.path.join(path, "golden.json"), "w") as f:
            json.dump(golden, f)


main(sys.argv[1])
