#!/usr/bin/env python3
"""Writes tests/golden/qwen, what bench/qwen/check.py compares a real Qwen2.5 with.

usage: make_qwen_golden.py GOLDEN_DIR MODEL.gguf OUT_DIR        (needs torch, transformers, peft, gguf)

GOLDEN_DIR holds runs of Qwen2.5-Coder-0.5B-Instruct Q4_K_M, dequantised to fp32, under transformers: tokenizer cases,
log-probabilities, greedy tokens and the batches of a LoRA on two layers. The LoRA on all linears of all layers is
trained here on the same batches: AdamW without weight decay, lr 2e-3, fp32; its losses are kept.
"""
import json
import shutil
import sys
from pathlib import Path

import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from peft import PeftModel
from transformers import Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).parent.parent / "bench" / "qwen"))
import lora_start  # noqa: E402

golden, gguf, out = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])


def read(name):
    return json.loads((golden / name).read_text())


def write(name, value):
    (out / name).write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
         "token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}


def load():
    """The model by the gguf package's own dequantisation; its head is not tied."""
    config = Qwen2Config(vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
                         num_attention_heads=14, num_key_value_heads=2, rope_theta=1e6, rms_norm_eps=1e-6,
                         max_position_embeddings=32768, tie_word_embeddings=False, attn_implementation="eager")
    state = {}
    for tensor in GGUFReader(str(gguf)).tensors:
        *layer, name, kind = tensor.name.split(".")
        prefix = f"model.layers.{layer[1]}." if layer else ""
        state[f"{prefix}{NAMES[name]}.{kind}"] = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
    model = Qwen2ForCausalLM(config)
    model.load_state_dict(state)
    return model


def train(batches):
    base = load()
    start = out / "start"
    lora_start.write(start)
    model = PeftModel.from_pretrained(base, str(start), is_trainable=True).train()
    for file in start.iterdir():
        file.unlink()
    start.rmdir()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.0)
    losses = []
    for rows in batches:
        ids = torch.tensor(rows)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(f"{loss.item():.7g}"))
        print(losses[-1], flush=True)
    return losses


out.mkdir(parents=True, exist_ok=True)
cases = read("tokenizer_cases.json")["cases"]
write("tokenizer_cases.json", [[bytes.fromhex(c["utf8_hex"]).decode(), c["ids"]] for c in cases])
write("logprobs.json", {name: {"ids": p["input_ids"], "logprobs": p["token_logprobs"]}
                        for name, p in read("base_logits.json").items() if "token_logprobs" in p})
write("greedy.json", {name: {"prompt": p["prompt_ids"], "ids": p["ids"]} for name, p in read("greedy48.json").items()})
two = read("lora_all7_r4_l2/training.json")["log"]
batches = [step["input_ids"] for step in two]
write("lora_two.json", {"lr": 2e-3, "batches": batches, "losses": [step["loss"] for step in two]})
shutil.copytree(golden / "lora_all7_r4_l2" / "init", out / "lora_two_start", dirs_exist_ok=True)
losses = train(batches)
write("lora_all.json", {"lr": 2e-3, "batches": batches, "losses": losses})
