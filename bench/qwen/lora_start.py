"""The LoRA that the training check starts from: rank 4 on all seven linears of every layer, made from a seed, because
eight megabytes of random numbers do not belong in a repository."""
import array
import json
import random
import struct
from pathlib import Path

RANK, ALPHA, LAYERS, HIDDEN, FFN, KV = 4, 8, 24, 896, 4864, 128
SHAPES = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KV, HIDDEN), "self_attn.v_proj": (KV, HIDDEN),
          "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN),
          "mlp.down_proj": (HIDDEN, FFN)}


def tensors():
    """(name, shape, values): lora_A uniform in +-1/sqrt(inputs), as PEFT draws it; lora_B zero."""
    draw = random.Random(8765)
    for layer in range(LAYERS):
        for module, (outputs, inputs) in SHAPES.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            bound = inputs ** -0.5
            values = array.array("f", (draw.uniform(-bound, bound) for _ in range(RANK * inputs)))
            yield f"{prefix}.lora_A.weight", (RANK, inputs), values
            yield f"{prefix}.lora_B.weight", (outputs, RANK), array.array("f", bytes(4 * outputs * RANK))


def write(folder):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    header, parts, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, shape, values in tensors():
        data = values.tobytes()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + len(data)]}
        parts.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "adapter_model.safetensors", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text + b"".join(parts))
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "Qwen2.5-Coder-0.5B-Instruct",
              "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0, "bias": "none", "inference_mode": False,
              "target_modules": sorted(module.split(".")[1] for module in SHAPES)}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
