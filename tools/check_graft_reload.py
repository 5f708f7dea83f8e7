"""Loads adapters that Cambium wrote into PEFT and AdapterHub, and compares their losses with `cambium eval`'s.

usage: check_graft_reload.py CAMBIUM MODEL.gguf GRAFT_DIR...     (needs torch, transformers, peft, adapters, gguf)
"""
import json
import math
import subprocess
import sys
from pathlib import Path

import adapters
import peft
import torch
from transformers import AutoModelForCausalLM

TEXT = list(range(300, 360))
cambium, model, grafts = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
for graft in grafts:
    base = AutoModelForCausalLM.from_pretrained(model.parent, gguf_file=model.name, dtype=torch.float32,
                                                attn_implementation="eager")
    config = json.loads((Path(graft) / "adapter_config.json").read_text())
    if "peft_type" in config:
        loaded = peft.PeftModel.from_pretrained(base, graft)
    else:
        adapters.init(base)
        loaded = base
        loaded.set_active_adapters(loaded.load_adapter(graft, use_safetensors=True))
    loaded.eval()
    ids = torch.tensor([TEXT])
    with torch.no_grad():
        logits = loaded(input_ids=ids).logits[0, -len(TEXT) :].double()  # behind a prompt's own rows
    logprobs = torch.log_softmax(logits[:-1], -1)[torch.arange(len(TEXT) - 1), torch.tensor(TEXT[1:])]
    shown = subprocess.run([cambium, "score", str(model), "--ids", ",".join(map(str, TEXT)), "--exact", "--json", "-q",
                            "--graft", graft], check=True, capture_output=True)
    ours = json.loads(shown.stdout)["logprobs"]
    worst = max(abs(a - b) for a, b in zip(ours, logprobs.tolist()))
    print(f"{graft}: largest difference of a log-probability {worst:.1e}")
    assert worst < 2e-3 and math.isfinite(worst)
