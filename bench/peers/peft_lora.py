"""LoRA fine-tuning with PyTorch and PEFT: tokens/s and peak memory, to set beside `cambium train`.

usage: peft_lora.py MODEL.gguf [--autocast] [--steps 4] [--threads 2] [--batch 4] [--length 256] [--rank 8] [--full]
                    [--compile]

PyTorch, eager or with --compile through torch.compile, sdpa, AdamW, LoRA on all seven linears, or with --full every
weight without PEFT; weights dequantised to fp32 by transformers. For its best figure preload tcmalloc:
LD_PRELOAD=libtcmalloc_minimal.so.4.
"""
import argparse
import resource
import statistics
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--autocast", action="store_true")
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--length", type=int, default=256)
parser.add_argument("--rank", type=int, default=8)
parser.add_argument("--full", action="store_true")
parser.add_argument("--compile", action="store_true")
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(0)
path = Path(args.model)
model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32,
                                             attn_implementation="sdpa")
if not args.full:
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=targets,
                                             task_type="CAUSAL_LM"))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
model.train()
run = torch.compile(model) if args.compile else model
rates = []
for step in range(args.steps + 1):  # the first one warms up
    ids = torch.randint(0, model.config.vocab_size, (args.batch, args.length))
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=args.autocast):
        loss = run(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if step > 0:
        rates.append(ids.numel() / (time.perf_counter() - start))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
name = ("bf16 autocast" if args.autocast else "fp32") + (", compiled" if args.compile else "")
who = "PyTorch" if args.full else "PEFT"
print(f"{who} {name}: median {statistics.median(rates):.0f}, best {max(rates):.0f} tokens/s; peak {peak:.0f} MiB")
