#!/usr/bin/env python3
"""Writes a random model of the shape of Qwen3-30B-A3B, cut to a few layers, as GGUF: what a mixture of experts costs does not
hang on its values. Needs numpy and gguf.

    python bench/experts/make_model.py out.gguf [--layers 4] [--type Q4_0|Q4_K|Q6_K|Q8_0] [--vocab 32000]
"""
import argparse

import gguf
import numpy

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, EXPERTS, USED, FFN = 2048, 32, 4, 128, 128, 8, 768
BYTES = [chr(b) for b in [*range(33, 127), *range(161, 173), *range(174, 256)]]
BYTES += [chr(256 + i) for i in range(256 - len(BYTES))]


def blocks(rng, kind, count):
    """`count` values of type `kind`: random bits with scales that make them a few hundredths."""
    size, width = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (count // size, width), dtype=numpy.uint8)
    # (offset of an f16 scale, its size)
    scales = {"Q4_0": [(0, 4e-3)], "Q8_0": [(0, 3e-4)], "Q4_K": [(0, 1.5e-4), (2, 1.1e-3)], "Q6_K": [(208, 2e-5)]}
    for offset, scale in scales[kind.name]:
        values = (scale * rng.uniform(0.5, 1.5, len(raw))).astype(numpy.float16)
        raw[:, offset:offset + 2] = values[:, None].view(numpy.uint8)
    return raw.reshape(-1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--type", default="Q4_0")
    parser.add_argument("--vocab", type=int, default=32000)
    args = parser.parse_args()
    kind, rng = gguf.GGMLQuantizationType[args.type], numpy.random.default_rng(1)
    writer = gguf.GGUFWriter(args.out, "qwen3moe")
    writer.add_name(f"Qwen3-30B-A3B, {args.layers} layers, random")
    writer.add_block_count(args.layers)
    writer.add_context_length(32768)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(6144)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(USED)
    writer.add_expert_feed_forward_length(FFN)
    writer.add_vocab_size(args.vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(BYTES + ["wo"] + [f"word{i}" for i in range(args.vocab - 258)] + ["<|endoftext|>"])
    writer.add_token_types([1] * (args.vocab - 1) + [3])
    writer.add_token_merges(["w o"])
    writer.add_eos_token_id(args.vocab - 1)

    def matrix(name, *shape):
        size, width = gguf.GGML_QUANT_SIZES[kind]
        count = int(numpy.prod(shape))
        data = blocks(rng, kind, count).reshape(*shape[:-1], shape[-1] // size * width)
        writer.add_tensor(name, data, raw_dtype=kind)

    def vector(name, size):
        writer.add_tensor(name, numpy.ones(size, numpy.float32))

    matrix("token_embd.weight", args.vocab, HIDDEN)
    matrix("output.weight", args.vocab, HIDDEN)
    vector("output_norm.weight", HIDDEN)
    for layer in range(args.layers):
        at = f"blk.{layer}."
        vector(at + "attn_norm.weight", HIDDEN)
        vector(at + "ffn_norm.weight", HIDDEN)
        vector(at + "attn_q_norm.weight", HEAD_DIM)
        vector(at + "attn_k_norm.weight", HEAD_DIM)
        matrix(at + "attn_q.weight", HEADS * HEAD_DIM, HIDDEN)
        matrix(at + "attn_k.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        matrix(at + "attn_v.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        matrix(at + "attn_output.weight", HIDDEN, HEADS * HEAD_DIM)
        router = rng.standard_normal((EXPERTS, HIDDEN), numpy.float32) * HIDDEN**-0.5
        writer.add_tensor(at + "ffn_gate_inp.weight", router)
        matrix(at + "ffn_gate_exps.weight", EXPERTS, FFN, HIDDEN)
        matrix(at + "ffn_up_exps.weight", EXPERTS, FFN, HIDDEN)
        matrix(at + "ffn_down_exps.weight", EXPERTS, HIDDEN, FFN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
