#!/usr/bin/env python3
"""torch scaled_dot_product_attention on the CPU at attention_bench's shapes (9 heads, 3 kv heads, head_dim 64, fp32).

usage: attention_peer.py [--threads 2] [--cpu-time] [length...]
Prints milliseconds a layer, the minimum over repetitions, for the causal forward, and for forward plus backward.
"""
import argparse
import time

import torch
import torch.nn.functional as F

HEADS, KV_HEADS, HEAD_DIM = 9, 3, 64


def min_ms(run, clock, budget_s=2.0):
    best, spent, count = float("inf"), 0.0, 0
    while count < 3 or (spent < budget_s and count < 100):
        start = clock()
        run()
        took = clock() - start
        best, spent, count = min(best, took), spent + took, count + 1
    return best * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="process time: steadier than wall on a busy machine")
    parser.add_argument("lengths", type=int, nargs="*", default=[512, 2048, 8192])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.manual_seed(0)
    for length in args.lengths:
        q = torch.rand(1, HEADS, length, HEAD_DIM, requires_grad=True)
        # The strongest form: keys and values already repeated for their query heads, which torch would do first.
        k = torch.rand(1, HEADS, length, HEAD_DIM, requires_grad=True)
        v = torch.rand(1, HEADS, length, HEAD_DIM, requires_grad=True)
        dout = torch.rand(1, HEADS, length, HEAD_DIM)

        def forward():
            with torch.no_grad():
                F.scaled_dot_product_attention(q, k, v, is_causal=True)

        def both():
            q.grad = k.grad = v.grad = None
            F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(dout)

        f, b = min_ms(forward, clock), min_ms(both, clock)
        print(f"sdpa length {length:6d}  forward {f:9.2f} ms  forward+backward {b:9.2f} ms", flush=True)
        step_q = torch.rand(1, HEADS, 1, HEAD_DIM)

        def decode():
            with torch.no_grad():
                F.scaled_dot_product_attention(step_q, k, v)

        print(f"sdpa decode at {length:6d}  {min_ms(decode, clock):9.3f} ms", flush=True)


if __name__ == "__main__":
    main()
