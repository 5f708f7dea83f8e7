"""Logits of draft heads in PyTorch, for tests/heads_test.cc.

usage: make_heads_golden.py OUT.json     (needs torch and transformers; run in the repository root)

The base is tests/golden/families/llama. Weights and inputs follow a formula that the test repeats: value i of the tensor
NAME is 0.15 sin(sum of NAME's bytes + 0.7 i), plus 1 for norms; input value i is sin(0.3 i) + 0.5 cos(0.011 i).
Medusa's ResBlock is x + SiLU(Linear(x)) as in github.com/FasterDecoding/Medusa (medusa_model.py), read out by the base's head
(version 2) or by a matrix of the head's own (version 1); the module is
DeepSeek-V3's (section 2.2) in the order of its released code: eh_proj(cat[enorm(embedding), hnorm(hidden)]), embedding
zero at position 0, one decoder layer, shared_head.norm, the base's head; then used again on its own state.
"""
import json
import sys

import torch
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

ROWS, HEADS = 6, 2
base = LlamaForCausalLM.from_pretrained("tests/golden/families/llama", dtype=torch.float32).eval()
config = base.config
config._attn_implementation = "eager"
H = config.hidden_size


def formula(name, shape, norm=False):
    count = int(torch.tensor(shape).prod())
    i = torch.arange(count, dtype=torch.float64)
    values = 0.15 * torch.sin(sum(name.encode()) + 0.7 * i) + (1 if norm else 0)
    return values.to(torch.float32).reshape(shape)


def rounded(tensor):
    return [[float(f"{x:.6g}") for x in row] for row in tensor.tolist()]


i = torch.arange(ROWS * H, dtype=torch.float64)
hidden = (torch.sin(0.3 * i) + 0.5 * torch.cos(0.011 * i)).to(torch.float32).reshape(ROWS, H)

medusa, medusa1 = [], []
for k in range(HEADS):
    linear = torch.nn.Linear(H, H)
    with torch.no_grad():
        linear.weight.copy_(formula(f"{k}.0.linear.weight", (H, H)))
        linear.bias.copy_(formula(f"{k}.0.linear.bias", (H,)))
        features = hidden + torch.nn.functional.silu(linear(hidden))
        medusa.append(rounded(base.lm_head(features)))
        own = torch.nn.Linear(H, config.vocab_size, bias=False)
        own.weight.copy_(formula(f"{k}.1.weight", (config.vocab_size, H)))
        medusa1.append(rounded(own(features)))

prefix = f"model.layers.{config.num_hidden_layers}."
layer = LlamaDecoderLayer(config, 0).eval()
enorm, hnorm, norm = (LlamaRMSNorm(H, config.rms_norm_eps) for _ in range(3))
eh_proj = torch.nn.Linear(2 * H, H, bias=False)
with torch.no_grad():
    for name, parameter in layer.named_parameters():
        parameter.copy_(formula(prefix + name, tuple(parameter.shape), "norm" in name))
    for name, module in (("enorm", enorm), ("hnorm", hnorm), ("shared_head.norm", norm)):
        module.weight.copy_(formula(prefix + name + ".weight", (H,), True))
    eh_proj.weight.copy_(formula(prefix + "eh_proj.weight", (H, 2 * H)))

positions = torch.arange(ROWS)[None]
mask = torch.full((ROWS, ROWS), float("-inf")).triu(1)[None, None]


def module(state, tokens):
    embedding = base.model.embed_tokens(tokens)
    embedding[positions == 0] = 0
    x = eh_proj(torch.cat([enorm(embedding), hnorm(state)], -1))
    out = layer(x, attention_mask=mask, position_ids=positions,
                position_embeddings=base.model.rotary_emb(x, positions))
    out = out[0] if isinstance(out, tuple) else out
    return out.reshape(1, ROWS, H)


with torch.no_grad():
    tokens = [torch.tensor([[(7 * t + 3 * d + 11) % config.vocab_size for t in range(ROWS)]]) for d in range(2)]
    first = module(hidden[None], tokens[0])
    second = module(first, tokens[1])
    mtp = [rounded(base.lm_head(norm(state))[0]) for state in (first, second)]
json.dump({"medusa": medusa, "medusa1": medusa1, "mtp": mtp}, open(sys.argv[1], "w"))
