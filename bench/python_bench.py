#!/usr/bin/env python3
"""python_bench.py CAMBIUM [MODEL]: what the Python package costs beside the program, and its windows beside bottleneck's.

Alternates; the middle of the rounds counts, of windows the best. Prompts of 8 tokens; of 16 streams the program's own `bench` says how fast they go.
"""

import json
import statistics
import subprocess
import sys
import time

import bottleneck
import numpy

import cambium

ROUNDS, TOKENS, PROMPT = 5, 128, "The cambium of a tree is"


def program(binary, model, streams):
    """Tokens/s of decoding by the program."""
    if streams == 1:
        command = [binary, "generate", model, "-p", PROMPT, "-n", str(TOKENS), "--temp", "0", "--ignore-eos", "--draft", "none", "--json", "-q"]
        timings = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["timings"]
        return timings["decode_tokens"] * 1000 / timings["decode_ms"]
    command = [binary, "bench", model, "--streams", str(streams), "-p", "8", "-n", str(TOKENS), "--json", "-q"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["streams"][0]["tps"]


def ours(model, streams, round):
    options = dict(max_tokens=TOKENS, temperature=0, ignore_eos=True, draft="none")
    if streams == 1:
        answer = model.generate(PROMPT, **options)
        for _ in answer:
            pass
        timings = answer.result().timings
        return timings["decode_tokens"] * 1000 / timings["decode_ms"]
    start = time.perf_counter()
    prompts = numpy.random.default_rng(round).integers(1000, 20000, (streams, 8), dtype=numpy.int32)
    answers = [model.generate(prompt, **options) for prompt in prompts]
    for answer in answers:
        for _ in answer:
            pass
    return streams * (8 + TOKENS) / (time.perf_counter() - start)  # as the program's bench counts


def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def windows():
    values = numpy.random.default_rng(1).standard_normal(10_000_000, dtype=numpy.float32)
    for k in (3, 10, 100, 1000, 100_000):
        a = b = 1e9
        for _ in range(ROUNDS):
            a = min(a, timed(lambda: cambium.sliding_max(values, k)))
            b = min(b, timed(lambda: bottleneck.move_max(values, k)))
        print(f"sliding_max of 1e7 floats, k {k}: {1000 * a:.1f} ms, bottleneck {1000 * b:.1f} ms, {b / a:.1f} x")


def main():
    binary, name = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "smollm2"
    windows()
    for streams in (1, 16):
        rates = ([], [])
        with cambium.load(name, parallel=streams) as model:
            ours(model, streams, ROUNDS)
            for round in range(ROUNDS):
                rates[0].append(ours(model, streams, round))
                rates[1].append(program(binary, name, streams))
        a, b = statistics.median(rates[0]), statistics.median(rates[1])
        print(f"{streams} streams: Python {a:.1f} tokens/s, program {b:.1f}, ratio {a / b:.3f}")


if __name__ == "__main__":
    main()
