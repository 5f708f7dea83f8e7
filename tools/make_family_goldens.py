#!/usr/bin/env python3
"""Writes tests/golden/families/NAME/{config.json,model.safetensors,golden.json}: tiny random models of every family and
what `transformers` makes of them in float32 (eager attention): logits, a greedy continuation, a loss and its gradients,
a LoRA of `peft` (lora/, and the logits with it), and the names that the `gguf` package gives the tensors. Needs torch,
transformers, peft, gguf, safetensors. Names after the folder: only those families.

    python tools/make_family_goldens.py tests/golden/families [NAME ...]
"""
import json
import os
import sys

import gguf
import peft
import torch
import transformers as tf
from transformers.pytorch_utils import Conv1D

VOCAB = 96
COMMON = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0)
# Small, so that a family costs few kilobytes.
SMALL = {**COMMON, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
FAMILIES = {
    "llama": (tf.LlamaConfig(**COMMON, tie_word_embeddings=True, rope_theta=1e5), tf.LlamaForCausalLM),
    "llama3": (tf.LlamaConfig(**COMMON, tie_word_embeddings=False, rope_scaling=LLAMA3), tf.LlamaForCausalLM),
    "mistral": (tf.MistralConfig(**COMMON, head_dim=16, sliding_window=24), tf.MistralForCausalLM),
    "qwen2": (tf.Qwen2Config(**COMMON, tie_word_embeddings=True, rope_scaling=YARN), tf.Qwen2ForCausalLM),
    "qwen3": (tf.Qwen3Config(**COMMON, head_dim=32, tie_word_embeddings=True), tf.Qwen3ForCausalLM),
    "gemma3": (tf.Gemma3TextConfig(**{**COMMON, "num_hidden_layers": 6}, head_dim=32, sliding_window=24,
                                   query_pre_attn_scalar=24), tf.Gemma3ForCausalLM),
    "gpt2": (tf.GPT2Config(vocab_size=VOCAB, n_embd=64, n_layer=3, n_head=4, n_positions=128, bos_token_id=1,
                           eos_token_id=2), tf.GPT2LMHeadModel),
    "gpt2_small": (tf.GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1,
                                 eos_token_id=2), tf.GPT2LMHeadModel),
    "phi3": (tf.Phi3Config(**SMALL, tie_word_embeddings=False, sliding_window=24), tf.Phi3ForCausalLM),
    "phi4mini": (tf.Phi3Config(**SMALL, tie_word_embeddings=True, partial_rotary_factor=0.5), tf.Phi3ForCausalLM),
    "gemma2": (tf.Gemma2Config(**SMALL, head_dim=16, sliding_window=24, query_pre_attn_scalar=16,
                               attn_logit_softcapping=3.0, final_logit_softcapping=4.0), tf.Gemma2ForCausalLM),
    "olmo2": (tf.Olmo2Config(**SMALL, tie_word_embeddings=False, rope_theta=5e5), tf.Olmo2ForCausalLM),
    "granite": (tf.GraniteConfig(**SMALL, tie_word_embeddings=True, embedding_multiplier=6.0, residual_multiplier=0.22,
                                 attention_multiplier=0.2, logits_scaling=3.0), tf.GraniteForCausalLM),
    "starcoder2": (tf.Starcoder2Config(**SMALL, tie_word_embeddings=True, sliding_window=24),
                   tf.Starcoder2ForCausalLM),
    "gptneox": (tf.GPTNeoXConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}, rotary_pct=0.5),
                tf.GPTNeoXForCausalLM),
    "gptneox_serial": (tf.GPTNeoXConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"},
                                        rotary_pct=1.0, use_parallel_residual=False), tf.GPTNeoXForCausalLM),
}
# The modules that a LoRA stands on, as PEFT names them.
TARGETS = {"phi3": ["qkv_proj", "gate_up_proj", "o_proj", "down_proj"], "phi4mini": ["qkv_proj"],
           "gptneox": ["query_key_value", "dense", "dense_h_to_4h"], "gptneox_serial": ["query_key_value"],
           "starcoder2": ["q_proj", "v_proj", "c_fc", "c_proj"], "gpt2_small": ["c_attn", "c_fc", "mlp.c_proj"]}
ARCHITECTURES = {"phi4mini": "phi3", "gptneox_serial": "gptneox", "gpt2_small": "gpt2", "llama3": "llama", "mistral": "llama"}
LEGACY = {"llama", "llama3", "mistral", "qwen2", "qwen3", "gemma3", "gpt2"}  # goldens that hold logits alone


def short(values):
    return [float(f"{v:.7g}") for v in values.flatten().tolist()]


def probe(columns):
    return torch.cos(torch.arange(1, columns + 1, dtype=torch.float32))


def training(model, ids):
    """The mean loss of ids, and each parameter's gradient: a matrix's as its product with a fixed vector."""
    loss = model(ids, labels=ids).loss
    loss.backward()
    gradients = {}
    turned = {id(m.weight) for m in model.modules() if isinstance(m, Conv1D)}  # stored [in, out]
    for name, p in model.named_parameters():
        grad = p.grad.T if id(p) in turned else p.grad
        grad = grad if p.dim() == 1 else grad @ probe(grad.shape[1])
        gradients[name] = short(grad)
        p.grad = None
    return {"loss": loss.item(), "gradients": gradients}


def lora(model, name, ids, rows, path):
    """A random LoRA on the model, saved beside it, and the logits with it."""
    targets = TARGETS.get(name, ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"])
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for key, p in adapted.named_parameters():
            if "lora_" in key:
                p.copy_(torch.randn_like(p) * 0.2)
        logits = adapted(ids).logits[0]
    adapted.save_pretrained(path)
    readme = os.path.join(path, "README.md")
    if os.path.exists(readme):
        os.remove(readme)
    config_path = os.path.join(path, "adapter_config.json")
    with open(config_path) as f:
        written = json.load(f)
    written["base_model_name_or_path"] = name
    written["target_modules"] = sorted(written["target_modules"])
    with open(config_path, "w") as f:
        json.dump(written, f, indent=2)
    adapted.unload()
    return [short(row) for row in logits[rows]]


def gguf_names(name, model):
    """What gguf-py, whose table llama.cpp's converter asks, calls each tensor."""
    wanted = ARCHITECTURES.get(name, name)
    arch = next(a for a, text in gguf.MODEL_ARCH_NAMES.items() if text == wanted)
    table = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    names = {}
    for key in model.state_dict():
        found = table.get_name(key, try_suffixes=(".weight", ".bias"))
        if found is not None:
            names[key] = found
    return names


def main(out, only):
    for name, (config, cls) in FAMILIES.items():
        if only and name not in only:
            continue
        torch.manual_seed(7)
        config._attn_implementation = "eager"
        model = cls(config).eval()
        legacy = name in LEGACY
        with torch.no_grad():
            for key, p in model.named_parameters():
                # Norm gains and biases that differ from their defaults, so that a forgotten one shows.
                if p.dim() == 1:
                    p.copy_((0.0 if "bias" in key or name.startswith("gemma") else 1.0) + 0.2 * torch.randn_like(p))
                else:
                    p.copy_(torch.randn_like(p) * (0.15 if legacy else 0.25))
                # The file is bf16, the arithmetic fp32; buffers (RoPE's inv_freq) stay as they are.
                p.copy_(p.to(torch.bfloat16).to(torch.float32))
            ids = torch.randint(3, VOCAB, (1, 70))
            logits = model(ids).logits[0]
            rows = [0, 1, 23, 24, 40, 69] if legacy else [0, 1, 24, 69]
            golden = {"ids": ids[0].tolist(), "rows": rows, "argmax": logits.argmax(-1).tolist()}
            if legacy:
                golden["logits"] = logits[rows].tolist()
            else:
                golden["logits"] = [short(row) for row in logits[rows]]
                answer = model.generate(ids[:, :8], max_new_tokens=24, do_sample=False, eos_token_id=None)
                golden["greedy"] = answer[0, 8:].tolist()
                golden["gguf_names"] = gguf_names(name, model)
        path = os.path.join(out, name)
        os.makedirs(path, exist_ok=True)
        if not legacy:
            golden.update(training(model, ids[:, :40]))
            golden["lora_logits"] = lora(model, name, ids, rows, os.path.join(path, "lora"))
        model.to(torch.bfloat16).save_pretrained(path, safe_serialization=True)
        for extra in ("generation_config.json",):
            if os.path.exists(os.path.join(path, extra)):
                os.remove(os.path.join(path, extra))
        with open(os.path.join(path, "golden.json"), "w") as f:
            json.dump(golden, f)


main(sys.argv[1], sys.argv[2:])
