#!/usr/bin/env python3
"""Writes tests/golden/peft/{lora,dora}: random adapters as PEFT saves them, for the tiny model of
tests/golden/families/llama, with the logits, the loss and some gradients that PyTorch gives in float32.

    python tools/make_peft_golden.py tests/golden          (needs torch, transformers, peft)
"""
import json
import os
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

CASES = {
    "lora": LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"],
                       rank_pattern={"down_proj": 2}, alpha_pattern={"layers.1.self_attn.q_proj": 3}),
    "dora": LoraConfig(r=2, lora_alpha=3, use_dora=True, target_modules=["k_proj", "up_proj"]),
}


def main(golden):
    for name, config in CASES.items():
        base = AutoModelForCausalLM.from_pretrained(os.path.join(golden, "families/llama"), dtype=torch.float32,
                                                    attn_implementation="eager")
        config.task_type = "CAUSAL_LM"
        torch.manual_seed(3)
        model = get_peft_model(base, config).eval()
        with torch.no_grad():
            for key, p in model.named_parameters():
                if "lora_A" in key or "lora_B" in key:
                    p.copy_(torch.randn_like(p) * 0.2)
                if "magnitude" in key:
                    p.mul_(1 + 0.2 * torch.rand_like(p))
        ids = torch.randint(3, 96, (1, 40))
        out = model(ids, labels=ids)
        out.loss.backward()
        path = os.path.join(golden, "peft", name)
        model.save_pretrained(path)
        os.remove(os.path.join(path, "README.md"))
        rows = [0, 7, 39]
        grads = {}
        for key, p in model.named_parameters():
            if p.requires_grad and (".layers.0." in key or "magnitude" in key):
                saved = key.replace(".default", "")
                grads[saved] = {"norm": p.grad.norm().item(), "first": p.grad.flatten()[:6].tolist()}
        with open(os.path.join(path, "golden.json"), "w") as f:
            json.dump({"ids": ids[0].tolist(), "rows": rows, "logits": out.logits[0][rows].tolist(),
                       "loss": out.loss.item(), "grads": grads}, f)


main(sys.argv[1])
