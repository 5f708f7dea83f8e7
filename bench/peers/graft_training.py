"""Training tokens/s of `cambium train` beside PEFT's prefix tuning and AdapterHub's Houlsby adapter, in turn.

usage: graft_training.py CAMBIUM MODEL.gguf WORK_DIR prefix|houlsby [--rounds 3] [--steps 3] [--threads 2]
       (needs torch, transformers, peft, adapters)

Batches of 4 x 256 random tokens, every token trained, AdamW; a prefix of 32, a bottleneck of hidden / 16. The libraries run
eager PyTorch with sdpa on the weights dequantised to fp32, under bf16 autocast and in fp32. For their best figure preload
tcmalloc: LD_PRELOAD=libtcmalloc_minimal.so.4 (it is taken away again for cambium).
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
for name in ("cambium", "model", "work", "method"):
    parser.add_argument(name)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--steps", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()
BATCH, LENGTH = 4, 256

torch.set_num_threads(args.threads)
torch.manual_seed(0)
path, work = Path(args.model), Path(args.work)
work.mkdir(parents=True, exist_ok=True)
base = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32,
                                            attn_implementation="sdpa")
if args.method == "prefix":
    import peft
    model = peft.get_peft_model(base, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=32))
    flags = ["--graft", "prefix", "--length", "32", "--prefix-init", "random"]
else:
    import adapters
    model = base
    adapters.init(model)
    model.add_adapter("a", config=adapters.DoubleSeqBnConfig(reduction_factor=16))
    model.train_adapter("a")
    flags = ["--graft", "adapter", "--variant", "houlsby", "--reduction", "16"]
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=2e-4)
data = work / "ids.jsonl"
examples = torch.randint(0, base.config.vocab_size, (BATCH * args.steps, LENGTH)).tolist()
data.write_text("".join(json.dumps({"input_ids": ids}) + "\n" for ids in examples))


def library(autocast):
    rates = []
    model.train()
    for _ in range(args.steps):
        ids = torch.randint(0, base.config.vocab_size, (BATCH, LENGTH))
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(input_ids=ids, labels=ids, use_cache=args.method == "prefix").loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rates.append(ids.numel() / (time.perf_counter() - start))
    return statistics.median(rates)


def cambium(precision):
    out = work / "run"
    shutil.rmtree(out, ignore_errors=True)
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    subprocess.run([args.cambium, "train", args.model, "--data", data, "--format", "ids", "-o", out, "--batch-size",
                    str(BATCH), "--seq-len", str(LENGTH), "--steps", str(args.steps), "--lr", "2e-4", "--precision",
                    precision, "-t", str(args.threads), "--save-every", "0", "-y", "-q", *flags], check=True, env=environment)
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(step["tokens_per_s"] for step in steps if "tokens_per_s" in step)


rows = {}
for round in range(-1, args.rounds):  # -1 warms up
    torch.manual_seed(round + 1)
    rates = {"cambium bf16": cambium("bf16"), "library bf16 autocast": library(True), "cambium fp32": cambium("fp32"),
             "library fp32": library(False)}
    if round >= 0:
        for name, rate in rates.items():
            rows.setdefault(name, []).append(rate)
print(f"{args.method}: {sum(p.numel() for p in trained)} parameters")
for name, rates in rows.items():
    print(f"{name:22} median {statistics.median(rates):6.0f} tokens/s  [{min(rates):.0f} .. {max(rates):.0f}]")
for ours, theirs in (("cambium bf16", "library bf16 autocast"), ("cambium bf16", "library fp32"), ("cambium fp32", "library fp32")):
    ratios = [a / b for a, b in zip(rows[ours], rows[theirs])]
    print(f"{ours} / {theirs}: {statistics.median(ratios):.2f} [{min(ratios):.2f} .. {max(ratios):.2f}]")
