#!/usr/bin/env python3
"""Writes small valid inputs of the targets adapter, token_index, hf_config, dataset, tree and grammar to tests/fuzz/corpus/.

    python3 tools/make_fuzz_seeds.py tests/fuzz/corpus

Adapters and heads are for the tiny Llama of tests/fuzz/adapter_fuzz.cc, the index for tests/tiny_tokenizer.h. What
fuzzing found stands beside them and is not written here.
"""
import json
import math
import os
import struct
import sys

LAYERS, HIDDEN, KV, FFN, VOCAB = 2, 8, 4, 12, 20
SHAPES = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KV, HIDDEN), "self_attn.v_proj": (KV, HIDDEN),
          "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN),
          "mlp.down_proj": (HIDDEN, FFN)}  # [out, in]
BASE = "tiny"


def values(shape):
    return struct.pack(f"<{math.prod(shape)}f", *(0.1 * math.sin(1 + i) for i in range(math.prod(shape))))


def piece(data):
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return struct.pack("<H", len(data)) + data


def tensors(shapes):
    """A safetensors file as adapter_fuzz takes it: header, data."""
    header, data = {}, b""
    for name, shape in shapes.items():
        stored = values(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(data), len(data) + len(stored)]}
        data += stored
    return piece(header) + piece(data)


def archive(dialect, *pieces):
    return bytes([dialect]) + b"".join(pieces)


def peft(**fields):
    return piece({"base_model_name_or_path": BASE, "task_type": "CAUSAL_LM", **fields})


def lora(names, dora=False):
    shapes = {}
    for layer in range(LAYERS):
        for name in names:
            out, columns = SHAPES[name]
            stem = f"base_model.model.model.layers.{layer}.{name}.lora_"
            shapes |= {stem + "A.weight": (2, columns), stem + "B.weight": (out, 2)}
            if dora:
                shapes[stem + "magnitude_vector"] = (out,)
    return tensors(shapes)


def lora_config(names, **fields):
    return peft(peft_type="LORA", r=2, lora_alpha=4, lora_dropout=0.0, bias="none",
                target_modules=[name.split(".")[1] for name in names], **fields)


def gguf_text(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(metadata, shapes):
    out = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(metadata))
    for key, value in metadata.items():
        out += gguf_text(key)
        out += struct.pack("<I", 8) + gguf_text(value) if isinstance(value, str) else struct.pack("<If", 6, value)
    data = b""
    for name, shape in shapes.items():
        out += gguf_text(name) + struct.pack("<I", len(shape))
        out += struct.pack(f"<{len(shape)}Q", *reversed(shape)) + struct.pack("<IQ", 0, len(data))
        data += values(shape)
        data += bytes(-len(data) % 32)
    return out + bytes(-len(out) % 32) + data


def adapters():
    some = ["self_attn.q_proj", "mlp.down_proj"]
    blocks = range(LAYERS)
    yield "peft_lora", archive(0, lora_config(some, rank_pattern={"down_proj": 2}, alpha_pattern={"q_proj": 3},
                                              layers_to_transform=[0, 1]), lora(some))
    yield "peft_dora", archive(0, lora_config(some[:1], use_dora=True, use_rslora=True), lora(some[:1], dora=True))
    ia3 = {f"base_model.model.model.layers.{i}.{name}.ia3_l": shape for i in blocks
           for name, shape in (("self_attn.k_proj", (KV, 1)), ("mlp.down_proj", (1, FFN)))}
    yield "peft_ia3", archive(0, peft(peft_type="IA3", target_modules=["k_proj", "down_proj"],
                                      feedforward_modules=["down_proj"]), tensors(ia3))
    vera = {f"base_model.model.model.layers.{i}.{name}.vera_lambda_{which}": (size,) for i in blocks
            for name, out in (("self_attn.k_proj", KV), ("mlp.down_proj", HIDDEN)) for which, size in (("d", 2), ("b", out))}
    yield "peft_vera", archive(0, peft(peft_type="VERA", r=2, target_modules=["k_proj", "down_proj"]),
                               tensors({**vera, "base_model.vera_A": (2, FFN), "base_model.vera_B": (HIDDEN, 2)}))
    common = {"num_virtual_tokens": 3, "num_layers": LAYERS, "num_transformer_submodules": 1}
    yield "peft_prefix", archive(0, peft(peft_type="PREFIX_TUNING", token_dim=KV, num_attention_heads=1,
                                         prefix_projection=False, **common),
                                 tensors({"prompt_embeddings": (3, LAYERS * 2 * KV)}))
    yield "peft_prompt", archive(0, peft(peft_type="PROMPT_TUNING", token_dim=HIDDEN, num_attention_heads=2, **common),
                                 tensors({"prompt_embeddings": (3, HIDDEN)}))
    for name, mha in (("pfeiffer", False), ("houlsby", True)):
        config = {"mh_adapter": mha, "output_adapter": True, "reduction_factor": 4, "non_linearity": "relu",
                  "original_ln_before": not mha, "original_ln_after": True, "residual_before_ln": True,
                  "adapter_residual_before_ln": False, "is_parallel": False, "scaling": 1.0, "leave_out": [],
                  "phm_layer": False, "ln_before": False, "ln_after": False, "use_gating": False}
        shapes = {}
        for i in blocks:
            for place in ["attention_adapters", "output_adapters"][0 if mha else 1:]:
                stem = f"model.layers.{i}.{place}.adapters.a.adapter_"
                shapes |= {stem + "down.0.weight": (2, HIDDEN), stem + "down.0.bias": (2,),
                           stem + "up.weight": (HIDDEN, 2), stem + "up.bias": (HIDDEN,)}
        described = {"config": config, "hidden_size": HIDDEN, "model_class": "LlamaForCausalLM", "model_name": BASE,
                     "model_type": "llama", "name": "a", "version": "adapters.1.3.0"}
        yield "hub_" + name, archive(1, piece(described), tensors(shapes))
    mlx = {}
    for i in blocks:
        stem = f"model.layers.{i}.self_attn.q_proj."
        mlx |= {stem + "lora_a": (HIDDEN, 2), stem + "lora_b": (2, HIDDEN)}
    parameters = {"rank": 2, "scale": 2.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    yield "mlx_lora", archive(2, piece({"fine_tune_type": "lora", "num_layers": LAYERS, "lora_parameters": parameters,
                                        "model": BASE}), tensors(mlx))
    mlx |= {f"model.layers.{i}.self_attn.q_proj.m": (HIDDEN,) for i in blocks}
    yield "mlx_dora", archive(2, piece({"fine_tune_type": "dora", "num_layers": LAYERS, "lora_parameters": parameters,
                                        "model": BASE}), tensors(mlx))
    llama = {}
    for i in blocks:
        for name, out, columns in (("attn_q", HIDDEN, HIDDEN), ("ffn_down", HIDDEN, FFN)):
            llama |= {f"blk.{i}.{name}.weight.lora_a": (2, columns), f"blk.{i}.{name}.weight.lora_b": (out, 2)}
    metadata = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora",
                "adapter.lora.alpha": 4.0}
    yield "gguf", archive(3, piece(gguf(metadata, llama)))
    yield from heads()
    whole = {"layers.0.attention_norm": (HIDDEN,), "final_norm": (HIDDEN,), "head": (VOCAB, HIDDEN)}
    yield "delta", archive(7, lora_config(some[:1]), lora(some[:1]), tensors(whole))
    yield "bundle", archive(8, lora_config(some[:1]), lora(some[:1]), heads_json("exit", layer=1), exit_tensors())


def heads_json(kind, **more):
    return piece({"kind": kind, "base_model_name_or_path": BASE, "hidden_size": HIDDEN, "vocab_size": VOCAB,
                  "end_tokens": [2], **more})


def exit_tensors():
    return tensors({"norm.weight": (HIDDEN,), "linear.weight": (HIDDEN, HIDDEN), "linear.bias": (HIDDEN,)})


def heads():
    medusa = {}
    for k in range(2):
        medusa |= {f"{k}.0.linear.weight": (HIDDEN, HIDDEN), f"{k}.0.linear.bias": (HIDDEN,)}
    yield "medusa2", archive(4, heads_json("medusa", draft_tokens=[1, 2, 5]), tensors(medusa),
                             piece({"medusa_num_heads": 2}))
    own = {f"{k}.1.weight": (VOCAB, HIDDEN) for k in range(2)}
    yield "medusa1", archive(4, piece(b""), tensors(medusa | own),
                             piece({"medusa_num_heads": 2, "medusa_num_layers": 1}))
    block = {name + ".weight": shape for name, shape in SHAPES.items()}
    block |= {name + ".weight": (HIDDEN,) for name in ("input_layernorm", "post_attention_layernorm")}
    chained = block | {"shared_head.norm.weight": (HIDDEN,), "eh_proj.weight": (HIDDEN, 2 * HIDDEN),
                       "enorm.weight": (HIDDEN,), "hnorm.weight": (HIDDEN,)}
    deepseek = {f"model.layers.{LAYERS}." + n: s for n, s in chained.items()}
    yield "mtp", archive(5, heads_json("mtp", depths=3), tensors(deepseek))
    parallel = block | {"shared_head.norm.weight": (HIDDEN,)}
    yield "mtp_parallel", archive(5, piece(b""), tensors({"extra_heads.0." + n: s for n, s in parallel.items()}))
    qwen = {"mtp.layers.0." + n: s for n, s in block.items()}
    qwen |= {"mtp.fc.weight": (HIDDEN, 2 * HIDDEN), "mtp.norm.weight": (HIDDEN,),
             "mtp.pre_fc_norm_embedding.weight": (HIDDEN,), "mtp.pre_fc_norm_hidden.weight": (HIDDEN,)}
    yield "mtp_qwen", archive(5, heads_json("mtp", depths=2), tensors(qwen))
    yield "exit", archive(6, heads_json("exit", layer=1), exit_tensors())


def tiny_pieces():
    """What the tokens of tests/tiny_tokenizer.h stand for."""
    yield from (bytes([byte]) for byte in range(256))
    yield from (b"<|im_start|>", b"<|im_end|>", b"<|bos|>")


def index(documents):
    """The header's checksum stays 0: the target mends it."""
    mask, code = 2**64 - 1, 14695981039346656037
    for text in tiny_pieces():
        for byte in text:
            code = (code ^ byte) * 1099511628211 & mask
        code = (code ^ 0x1ff) * 1099511628211 & mask
    tokens = [token for document in documents for token in (*document, -1)]
    order = sorted(range(len(tokens)), key=lambda i: (tokens[i:tokens.index(-1, i) + 1], i))
    return (b"CMBINDX1" + struct.pack("<QQQ", code, 0, len(tokens)) +
            struct.pack(f"<{2 * len(tokens)}i", *tokens, *order))


def configs():
    common = {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
              "intermediate_size": 96, "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "hidden_act": "silu",
              "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0, "head_dim": 16}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1,
            "mscale": 1.0, "mscale_all_dim": 1.0, "truncate": False}
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 64}
    sliding = {"hidden_activation": "gelu_pytorch_tanh", "sliding_window": 8, "query_pre_attn_scalar": 16,
               "rope_local_base_freq": 10000.0, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
    yield "llama", common | {"model_type": "llama", "rope_theta": 1e5, "attention_bias": False, "rope_scaling": llama3}
    yield "mistral", common | {"model_type": "mistral", "sliding_window": None, "rope_scaling": {"type": "linear", "factor": 2}}
    yield "qwen2", common | {"model_type": "qwen2", "use_sliding_window": False, "max_window_layers": 3, "rope_scaling": yarn}
    yield "qwen3", common | {"model_type": "qwen3", "attention_bias": False,
                             "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}
    yield "gemma3", common | {"model_type": "gemma3_text", "rope_theta": 1e6, **sliding}
    yield "wrapped", {"model_type": "gemma3", "text_config": common | {"model_type": "gemma3_text", **sliding}}
    yield "gpt2", {"model_type": "gpt2", "vocab_size": 100, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256,
                   "n_ctx": 256, "n_inner": None, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
                   "bos_token_id": 1, "eos_token_id": 1}


def lines(*records):
    return "\n".join(json.dumps(record) for record in records).encode() + b"\n"


def data():
    """The first byte: the format, and 8: no chat template, 16: prompts, 32: prompts are trained, 64: raw."""
    user, answer = {"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2 <|im_end|>", "weight": 1}
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    chat = lines({"messages": [{"role": "system", "content": "s"}, user, answer]},
                 {"messages": [answer | {"train": False}, user, answer]})
    yield "chat", b"\x01" + chat
    yield "chat_prompts", b"\x11" + chat
    yield "tools", b"\x01" + lines({"tools": json.dumps([tool]), "messages": [
        user, {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "3"}, answer]})
    yield "trl", b"\x00" + lines({"prompt": [user], "completion": [answer]}, {"prompt": "a", "completion": "b"})
    yield "sharegpt", b"\x05" + lines({"system": "s", "conversations": [
        {"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}, {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {}}"},
        {"from": "observation", "value": "o"}, {"from": "gpt", "value": "\u00e9"}]})
    alpaca = lines({"instruction": "i", "input": "n", "output": "o", "system": "s", "history": [["a", "b"]]})
    yield "alpaca", b"\x04" + alpaca
    yield "alpaca_raw", b"\x6c" + alpaca
    yield "completions", b"\x02" + lines({"prompt": "p", "completion": "c"})
    yield "text", b"\x03" + lines({"text": "a\n\u2028b"})
    yield "ids", b"\x06" + lines({"input_ids": [1, 2, 257], "labels": [-100, 2, 257], "attention_mask": [1, 1, 1]})
    yield "array", b"\x00\xef\xbb\xbf[" + json.dumps({"text": "a"}).encode() + b", {\"text\": \"b\"}]"
    yield "plain", b"\x07two lines\r\nof text"


def trees():
    paths = [[0], [1], [0, 0], [0, 1], [0, 0, 0], [1, 0]]
    yield "json", json.dumps(paths).encode()
    yield "python", b"# Medusa's\nmc_sim_7b_63 = " + json.dumps(paths).encode() + b"\n"


def grammars():
    """A letter for the kind (s and j: a schema, spaced and compact; r: an expression; p: a pattern; g: GBNF), and a text."""
    schemas = [
        {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "n": {"type": "integer", "minimum": -5}},
         "required": ["name"]},
        {"type": "array", "items": {"enum": ["a", 1, None]}, "uniqueItems": True, "minItems": 1},
        {"$ref": "#/$defs/t", "$defs": {"t": {"type": "object", "properties": {"l": {"$ref": "#/$defs/t"}}}}},
        {"anyOf": [{"type": "string", "pattern": "^a+b?$"}, {"multipleOf": 0.25, "maximum": 9}]},
        {"oneOf": [{"required": ["a"], "properties": {"a": True}}, {"required": ["b"], "properties": {"b": {"not": {"const": 1}}}}]},
        {"if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}, "else": {"maxProperties": 1},
         "properties": {"a": {"type": "integer"}, "b": {"type": "null"}}},
        {"patternProperties": {"^x": {"type": "boolean"}}, "additionalProperties": False, "propertyNames": {"maxLength": 3}},
        {"prefixItems": [{"format": "date"}, {"format": "ipv4"}], "items": False, "contains": {"minLength": 2}},
        {"allOf": [{"properties": {"a": {"type": "number"}}}], "unevaluatedProperties": False, "dependencies": {"a": ["b"]}},
        {"$id": "http://x/a", "$dynamicRef": "#n", "$defs": {"n": {"$dynamicAnchor": "n", "type": ["null", "boolean"]}}}]
    out = [(f"schema_{i}", "js"[i % 2] + json.dumps(schema)) for i, schema in enumerate(schemas)]
    texts = {"r": ["a(b|c)*d?", "[^a-c\\d]{2,9}", "(?:x|(?<n>y)){2}\\u00e9", "\\p{L}+|\\w\\S."],
             "p": ["^a|b$", "[0-9]{3}-?"],
             "g": ['root ::= "[" (w (", " w)*)? "]"\nw ::= [a-z]+ | "\\"" [^"]* "\\""', 'root ::= "(" root? ")" | [^()]{2,3}',
                   "root ::= a |\n  b # c\na ::= \"x\"+ .\nb ::= [\\x41-\\x5A]?"]}
    out += [(f"{kind}_{i}", kind + text) for kind, list_ in texts.items() for i, text in enumerate(list_)]
    return [(name, text.encode()) for name, text in out]


def main(corpus):
    seeds = {"adapter": adapters(),
             "token_index": [("two", index([[104, 105, 104, 105], [97] * 40])), ("none", index([]))],
             "hf_config": ((name, json.dumps(config, indent=1).encode()) for name, config in configs()),
             "dataset": data(), "tree": trees(), "grammar": grammars()}
    for target, inputs in seeds.items():
        os.makedirs(os.path.join(corpus, target), exist_ok=True)
        for name, content in inputs:
            with open(os.path.join(corpus, target, name), "wb") as file:
                file.write(content)


main(sys.argv[1])
