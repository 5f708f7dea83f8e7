#!/usr/bin/env python3
"""Writes small valid inputs of the targets token_index, hf_config, dataset and tree to tests/fuzz/corpus/.

    python3 tools/make_fuzz_seeds.py tests/fuzz/corpus

The index is for tests/tiny_tokenizer.h. What fuzzing found stands beside them and is not written here.
"""
import json
import os
import struct
import sys


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


def main(corpus):
    seeds = {"token_index": [("two", index([[104, 105, 104, 105], [97] * 40])), ("none", index([]))],
             "hf_config": ((name, json.dumps(config, indent=1).encode()) for name, config in configs()),
             "dataset": data(), "tree": trees()}
    for target, inputs in seeds.items():
        os.makedirs(os.path.join(corpus, target), exist_ok=True)
        for name, content in inputs:
            with open(os.path.join(corpus, target, name), "wb") as file:
                file.write(content)


main(sys.argv[1])
