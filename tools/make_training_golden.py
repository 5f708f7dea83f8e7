"""Copies what the training tests need out of the golden data of PyTorch and PEFT runs.

usage: make_training_golden.py GOLDEN_DIR MODEL.gguf OUT_DIR     (needs torch, transformers and safetensors)

GOLDEN_DIR/lora_qv_r8 is a PEFT run (LoRA r=8 on q, v of SmolLM2-135M-Instruct Q4_1, dequantised to fp32; AdamW);
full_grads_long is one full backward of the same base on one text; here it is done again in float64. Full fine-tuning on
the batches of the PEFT run is done here too, in float32.
"""
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

golden, gguf, out = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
(out / "init").mkdir(parents=True, exist_ok=True)
for name in ("adapter_config.json", "adapter_model.safetensors"):
    shutil.copyfile(golden / "lora_qv_r8" / "init" / name, out / "init" / name)
run = json.loads((golden / "lora_qv_r8" / "training.json").read_text())
steps = [{key: step[key] for key in ("loss", "grad_norm", "input_ids")} for step in run["log"]]
prompts = json.loads((golden / "prompts.json").read_text())
prompts = prompts.get("prompts", prompts)
long_text = prompts["long"]
full = json.loads((golden / "full_grads_long.json").read_text())
text = {"steps": steps, "long_text": long_text}

# One full backward in float64: PyTorch's fp32 gradients of some norms are off by up to 7e-4 of their length.


def load():
    return AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32,
                                                attn_implementation="eager").eval()


model = load().double()
tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
ids = torch.tensor([tokenizer(long_text, add_special_tokens=False)["input_ids"]])
logits = model(input_ids=ids, use_cache=False).logits
loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
loss.backward()
if abs(loss.item() - full["loss"]) > 1e-4:
    sys.exit(f"the loss is {loss.item()}, the golden run has {full['loss']}: other tokens or weights")
text["long_loss"] = loss.item()
grads = {name: parameter.grad for name, parameter in model.named_parameters()}
text["long_grad_lengths"] = {name: float(f"{grad.norm().item():.7g}") for name, grad in grads.items()}
norm_grads = {name: grad.float().numpy() for name, grad in grads.items() if "norm" in name}


def fine_tune(model, batches, autocast):
    """Full fine-tuning, decoupled weight decay off the norms: the losses and gradient norms of every step."""
    parameters = dict(model.named_parameters())
    groups = [{"params": [p for n, p in parameters.items() if "norm" not in n], "weight_decay": 0.01},
              {"params": [p for n, p in parameters.items() if "norm" in n], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2e-5)
    log = []
    for batch in batches:
        loss, batch = 0, [torch.tensor([ids]) for ids in batch]
        targets = sum(ids.shape[1] - 1 for ids in batch)
        for ids in batch:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                logits = model(input_ids=ids, use_cache=False).logits.float()
            part = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum") / targets
            part.backward()
            loss += part.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), 1e9).item()
        optimizer.step()
        optimizer.zero_grad()
        log.append({"loss": float(f"{loss:.7g}"), "grad_norm": float(f"{norm:.6g}")})
    return log


batches = [step["input_ids"] for step in steps[:12]]
del model, grads
text["full_steps"] = fine_tune(load(), batches, False)
# What bf16 products cost: the same under autocast, master weights in fp32.
text["full_bf16_losses"] = [step["loss"] for step in fine_tune(load(), batches, True)]
(out / "training.json").write_text(json.dumps(text) + "\n")
save_file(norm_grads, out / "norm_grads_long.safetensors")
