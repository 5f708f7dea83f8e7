"""PEFT loads adapters that `cambium train` saved, and gives our log-probabilities and greedy tokens.

usage: peft_adapter.py CAMBIUM MODEL.gguf WORK_DIR      (needs torch, transformers, peft; the weights are dequantised)

Trains a few steps of each kind of LoRA, then compares `score --exact` and `generate --exact` with PEFT in fp32.
"""
import json
import subprocess
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

cambium, path, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
KINDS = {
    "lora": [],
    "rslora": ["--rslora", "--rank-pattern", "q_proj=3,down_proj=12", "--alpha-pattern", "v_proj=5"],
    "dora": ["--dora", "--targets", "q_proj,up_proj"],
    "pissa": ["--pissa", "--rank", "4"],
}
TEXT = "The gardener cut a slanting wedge from the young branch and set it into the old trunk."


def run(*args):
    return subprocess.run([cambium, *map(str, args)], check=True, capture_output=True, text=True).stdout


work.mkdir(parents=True, exist_ok=True)
data = work / "notes.jsonl"
data.write_text("".join(json.dumps({"text": f"Note {i}: graft number {i} took in week {i % 5}."}) + "\n" for i in range(40)))
worst = 0.0
for name, flags in KINDS.items():
    out = work / name
    if not out.exists():
        run("train", path, "--data", data, "-o", out, "--steps", 6, "--lr", 2e-3, "--batch-size", 4, "-y", "-q", *flags)
    score = json.loads(run("score", path, "--exact", "-p", TEXT, "--graft", out, "--json", "-q"))
    base = json.loads(run("score", path, "--exact", "-p", TEXT, "--json", "-q"))
    ours = json.loads(run("generate", path, "--exact", "-p", TEXT, "--graft", out, "--json", "-q", "-n", 32, "--temp", 0,
                          "--ignore-eos"))
    model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(out)).eval()
    ids = torch.tensor([score["ids"]])
    with torch.no_grad():
        logprobs = model(ids).logits[0].double().log_softmax(-1)
        theirs = logprobs[:-1].gather(1, ids[0, 1:, None])[:, 0]
        greedy = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False,
                                eos_token_id=None, pad_token_id=0)[0, ids.shape[1]:].tolist()
    difference = (theirs - torch.tensor(score["logprobs"])).abs().max().item()
    effect = (torch.tensor(base["logprobs"]) - torch.tensor(score["logprobs"])).abs().max().item()
    worst = max(worst, difference)
    same = sum(a == b for a, b in zip(greedy, ours["ids"]))
    print(f"{name:7} largest log-probability difference {difference:.1e} (the adapter's effect: {effect:.2f}); "
          f"{same} of 32 greedy tokens the same", flush=True)
sys.exit(worst > 2e-3)
