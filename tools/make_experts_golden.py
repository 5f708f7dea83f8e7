#!/usr/bin/env python3
"""Writes tests/golden/experts/NAME/{config.json,model.safetensors,golden.json,lora/}: tiny random mixtures of experts,
what `transformers` gives for them in float32 (logits, a greedy text) and, with a random LoRA as PEFT saves it on attention
and experts, logits, loss and gradients. Needs torch, transformers, peft.

    python tools/make_experts_golden.py tests/golden/experts
"""
import json
import os
import shutil
import sys

import torch
import transformers as tf
from peft import LoraConfig, get_peft_model

VOCAB = 96
COMMON = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0)
QWEN = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32)
MODELS = {
    "qwen3_moe": (tf.Qwen3MoeConfig(**COMMON, **QWEN, head_dim=16, norm_topk_prob=True), tf.Qwen3MoeForCausalLM),
    "qwen3_moe_mixed": (tf.Qwen3MoeConfig(**{**COMMON, "num_hidden_layers": 4}, **QWEN, head_dim=16, norm_topk_prob=False,
                                          decoder_sparse_step=2, mlp_only_layers=[1]), tf.Qwen3MoeForCausalLM),
    "qwen2_moe": (tf.Qwen2MoeConfig(**COMMON, **QWEN, shared_expert_intermediate_size=64, norm_topk_prob=False),
                  tf.Qwen2MoeForCausalLM),
    "mixtral": (tf.MixtralConfig(**{**COMMON, "intermediate_size": 32}, num_local_experts=5, num_experts_per_tok=2,
                                 sliding_window=24), tf.MixtralForCausalLM),
}
TARGETS = {"mixtral": ["q_proj", "o_proj", "w1", "w2"]}
ROWS = [0, 1, 23, 24, 40, 59]


def randomise(model):
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.dim() == 1:
                p.copy_((0.0 if "bias" in key else 1.0) + 0.2 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * 0.2)
            # The file is bf16, the arithmetic fp32.
            p.copy_(p.to(torch.bfloat16).to(torch.float32))


def main(out):
    for name, (config, cls) in MODELS.items():
        torch.manual_seed(11)
        config._attn_implementation = "eager"
        model = cls(config).eval()
        randomise(model)
        ids = torch.randint(3, VOCAB, (1, 60))
        with torch.no_grad():
            logits = model(ids).logits[0]
            text = model.generate(ids[:, :8], max_new_tokens=24, do_sample=False, eos_token_id=None)[0, 8:]
        golden = {"ids": ids[0].tolist(), "rows": ROWS, "logits": logits[ROWS].tolist(), "greedy": text.tolist()}
        path = os.path.join(out, name)
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        saved = cls(config).to(torch.bfloat16)
        saved.load_state_dict(model.state_dict())
        saved.save_pretrained(path, safe_serialization=True)
        if os.path.exists(os.path.join(path, "generation_config.json")):
            os.remove(os.path.join(path, "generation_config.json"))

        lora = LoraConfig(r=2, lora_alpha=3, target_modules=TARGETS.get(name, ["q_proj", "o_proj", "gate_proj", "down_proj"]),
                          task_type="CAUSAL_LM")
        model = get_peft_model(model, lora).eval()
        with torch.no_grad():
            for key, p in model.named_parameters():
                if "lora_" in key:
                    p.copy_(torch.randn_like(p) * 0.2)
        result = model(ids, labels=ids)
        result.loss.backward()
        model.save_pretrained(os.path.join(path, "lora"))
        os.remove(os.path.join(path, "lora", "README.md"))
        grads = {}
        for key, p in model.named_parameters():
            if p.requires_grad:
                grad = torch.zeros_like(p) if p.grad is None else p.grad  # of an expert without rows
                grads[key.replace(".default", "")] = {"norm": grad.norm().item(), "first": grad.flatten()[:6].tolist()}
        golden["lora"] = {"logits": result.logits[0][ROWS].tolist(), "loss": result.loss.item(), "grads": grads}
        with open(os.path.join(path, "golden.json"), "w") as f:
            json.dump(golden, f)


main(sys.argv[1])
