#!/usr/bin/env python3
"""The shapes of gemm_bench in PyTorch, beside gemm_bench's own figures.

gemm_peer.py path/to/gemm_bench [rows] [threads]: runs both in turn and prints GFLOP/s and their ratio. With one thread
both report CPU time, which a busy machine disturbs less. PyTorch multiplies dense weights of the compute type; gemm_bench
decodes the stored type named in its lines (BF16, Q4_1) inside the product.
"""
import re
import subprocess
import sys
import time

import torch


def fastest(run, clock):
    best, total, count = 1e30, 0.0, 0
    while count < 200 and (count < 5 or total < 0.4):
        begin = clock()
        run()
        seconds = clock() - begin
        best, total, count = min(best, seconds), total + seconds, count + 1
    return best


def main():
    bench = sys.argv[1]
    rows = sys.argv[2] if len(sys.argv) > 2 else "1024"
    threads = sys.argv[3] if len(sys.argv) > 3 else "2"
    torch.set_num_threads(int(threads))
    clock = time.thread_time if threads == "1" else time.perf_counter
    lines = subprocess.run([bench, rows, threads], check=True, capture_output=True, text=True).stdout.splitlines()
    pattern = re.compile(r"(.*?) +(f32|bf16) +(\d+) x +(\d+) x +(\d+) +([\d.]+) GFLOP/s")
    for line in lines:
        name, compute, m, n, k, ours = pattern.match(line).groups()
        m, n, k = int(m), int(n), int(k)
        dtype = torch.float32 if compute == "f32" else torch.bfloat16
        op = name.split()[0]
        transpose_a = name == "dw" or name.startswith(("lora da", "lora db"))
        transpose_b = op == "y" or name.startswith(("lora h", "lora y"))
        a = torch.randn(k, m).T if transpose_a else torch.randn(m, k)
        b = torch.randn(n, k).T if transpose_b else torch.randn(k, n)
        # torch writes bf16 under mixed precision; gemm_bench always writes f32.
        a, b = a.to(dtype), b.to(dtype)
        c = torch.zeros(m, n, dtype=dtype)
        adds = name in ("dw", "lora y", "lora y16", "lora dx", "lora da", "lora db", "lora db16")
        with torch.inference_mode():
            seconds = fastest((lambda: c.addmm_(a, b)) if adds else (lambda: torch.mm(a, b, out=c)), clock)
        theirs = 2e-9 * m * n * k / seconds
        ours = float(ours)
        print(f"{name:10} {compute:4} {m:5} x {n:5} x {k:5}  {ours:6.1f}  torch {theirs:6.1f}  ratio {ours / theirs:5.2f}",
              flush=True)


if __name__ == "__main__":
    main()
