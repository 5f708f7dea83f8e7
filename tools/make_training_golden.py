"""Copies what the training tests need out of the golden data of PyTorch and PEFT runs.

usage: make_training_golden.py GOLDEN_DIR OUT_DIR     (needs safetensors and numpy)

GOLDEN_DIR/lora_qv_r8 is a PEFT run (LoRA r=8 on q, v of SmolLM2-135M-Instruct Q4_1, dequantised to fp32; AdamW);
full_grads_long is one full backward of the same base on one text.
"""
import json
import shutil
import sys
from pathlib import Path

from safetensors.numpy import load_file, save_file

golden, out = Path(sys.argv[1]), Path(sys.argv[2])
(out / "init").mkdir(parents=True, exist_ok=True)
for name in ("adapter_config.json", "adapter_model.safetensors"):
    shutil.copyfile(golden / "lora_qv_r8" / "init" / name, out / "init" / name)
run = json.loads((golden / "lora_qv_r8" / "training.json").read_text())
steps = [{key: step[key] for key in ("loss", "grad_norm", "input_ids")} for step in run["log"]]
prompts = json.loads((golden / "prompts.json").read_text())
prompts = prompts.get("prompts", prompts)
long_text = prompts["long"]
full = json.loads((golden / "full_grads_long.json").read_text())
text = {"steps": steps, "long_text": long_text, "long_loss": full["loss"]}
(out / "training.json").write_text(json.dumps(text) + "\n")
grads = load_file(golden / "full_grads_long.safetensors")
save_file({k: v for k, v in grads.items() if "norm" in k}, out / "norm_grads_long.safetensors")
