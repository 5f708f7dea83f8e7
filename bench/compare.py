#!/usr/bin/env python3
"""Cambium beside llama.cpp and PEFT, measured in turns on the same files: the table of the README.

usage: compare.py LLAMA_BIN MODEL... [--rounds 5] [--cambium PROGRAM] [--peft PYTHON] [--markdown OUT] [--svg OUT]

LLAMA_BIN: the folder of llama.cpp's programs; `bench/peers/build_llamacpp.sh DIRECTORY` builds them into
DIRECTORY/build/bin. MODEL: a .gguf file, read by both; FILE=PEER gives llama.cpp another file of the same weights, such as
a Q4_0. PYTHON: one that has torch, transformers, peft and gguf.

Two threads each. A round runs every measurement once by ours, then by the peer; what is printed is the median of the
rounds' ratios, and their least and greatest.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROMPT, DECODE = 512, 64              # tokens of one request
STREAMS, IN, OUT = (4, 16), 128, 64   # requests at once, tokens in and out of each


def run(command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
    if done.returncode != 0:
        sys.exit(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def seconds(command):
    start = time.perf_counter()
    run(command)
    return time.perf_counter() - start


class Pair:
    """One model, ours and the peer's file of it."""

    def __init__(self, args, model):
        self.cambium, self.llama = args.cambium, Path(args.llama)
        self.ours, _, peer = model.partition("=")
        self.peer = peer or self.ours
        self.name = Path(self.ours).stem + (f" / {Path(self.peer).stem}" if peer else "")

    def one_request(self):
        ours = json.loads(run([self.cambium, "bench", self.ours, "-t", 2, "-p", PROMPT, "-n", DECODE, "-r", 3,
                               "--no-verify", "--json", "-q"]))
        peer = json.loads(run([self.llama / "llama-bench", "-m", self.peer, "-t", 2, "-p", PROMPT, "-n", DECODE, "-r", 3,
                               "-o", "json"]))
        rates = {bool(test["n_prompt"]): statistics.median(test["samples_ts"]) for test in peer}
        yield f"prompt of {PROMPT}, tokens/s", ours["prefill_tps"], rates[True]
        yield f"answer of {DECODE}, tokens/s", ours["decode_tps"], rates[False]

    def many_requests(self):
        ours = json.loads(run([self.cambium, "bench", self.ours, "-t", 2, "-p", IN, "-n", OUT, "-r", 1, "--batch", "--json",
                               "-q", "--streams", *STREAMS]))
        peer = run([self.llama / "llama-batched-bench", "-m", self.peer, "-t", 2, "-npp", IN, "-ntg", OUT, "-npl",
                    ",".join(map(str, STREAMS)), "-c", max(STREAMS) * 2 * (IN + OUT), "-b", 2048, "-ub", 512])
        rates = {int(cells[2]): float(cells[9]) for cells in
                 ([cell.strip() for cell in line.strip("| ").split("|")] for line in peer.splitlines())
                 if len(cells) == 10 and cells[0].isdigit()}
        for row in ours["streams"]:
            yield f"{row['streams']} requests at once, tokens/s", row["tps"], rates[row["streams"]]

    def start(self):
        text = ["-p", "The capital of France is", "-n", 1, "-t", 2]
        ours = seconds([self.cambium, "generate", self.ours, "-q", *text])
        peer = seconds([self.llama / "llama-completion", "-m", self.peer, "-no-cnv", "--no-warmup", *text])
        yield "started and answered, s", ours, peer

    def measures(self):
        for kind in (self.one_request, self.many_requests, self.start):
            yield from kind()


def training(args, model):
    """Tokens a second of a LoRA of rank 8 on all linears in bf16, 4 x 256 tokens a step."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.txt"
        data.write_text("The cambium is the layer of a tree in which a graft takes. " * 2000)
        out = Path(folder) / "lora"
        said = run([args.cambium, "train", model, "--data", data, "-o", out, "--batch-size", 4, "--seq-len", 256, "--steps", 4, "-t", 2,
                    "-q"])
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        ours = max(line["tokens_per_s"] for line in lines if "tokens_per_s" in line)
    peer = run([args.peft, HERE / "peers" / "peft_lora.py", model, "--autocast", "--threads", 2])
    return "LoRA, bf16, tokens/s", ours, float(re.search(r"best (\d+) tokens/s", peer)[1])


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(rows):
    """rows: [(model, what, peer's name, [(ours, peer)])] -> Markdown, and [(label, ratio)] where more is better."""
    lines = ["| model | | Cambium | peer | ratio | least to greatest |", "| --- | --- | --- | --- | --- | --- |"]
    bars, last = [], None
    for model, what, peer_name, pairs in rows:
        ratios = [peer / ours if what.endswith(", s") else ours / peer for ours, peer in pairs]
        ours, peer = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
        ratio = statistics.median(ratios)
        lines.append(f"| {model if model != last else ''} | {what} | {number(ours)} | {peer_name} {number(peer)} | "
                     f"**{ratio:.1f} ×** | {min(ratios):.2f} to {max(ratios):.2f} |")
        bars.append((model if model != last else "", what.partition(",")[0], ratio))
        last = model
    return "\n".join(lines) + "\n", bars


def chart(bars):
    """Horizontal bars of how many times faster, with a line where both are equal."""
    row, left, width, head = 20, 250, 360, 18
    most = max(ratio for _, _, ratio in bars)
    heads = sum(1 for model, _, _ in bars if model)
    height = row * len(bars) + head * heads + 30
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 60}" height="{height}" font-family="sans-serif" '
           'font-size="12"><style>text{fill:#24292f}.bar{fill:#2a7a1f}@media(prefers-color-scheme:dark){text{fill:#e6edf3}'
           '.bar{fill:#5fb852}}</style>']
    y = 4
    for model, what, ratio in bars:
        if model:
            out.append(f'<text x="4" y="{y + 13}" font-weight="bold">{model}</text>')
            y += head
        length = width * ratio / most
        out.append(f'<text x="16" y="{y + 13}">{what}</text><rect class="bar" x="{left}" y="{y + 2}" width="{length:.1f}" '
                   f'height="{row - 6}" rx="2"/><text x="{left + length + 6:.1f}" y="{y + 13}">{ratio:.1f} ×</text>')
        y += row
    one = left + width / most
    out.append(f'<line x1="{one:.1f}" y1="0" x2="{one:.1f}" y2="{y}" stroke="#b35900" stroke-dasharray="3 3"/>'
               f'<text x="{one - 20:.1f}" y="{y + 16}">the peer</text></svg>')
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cambium", default=HERE.parent / "build/release/src/cambium")
    parser.add_argument("--peft")
    parser.add_argument("--markdown")
    parser.add_argument("--svg")
    args = parser.parse_args()
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [args.llama, os.environ.get("LD_LIBRARY_PATH")]))
    found = {}
    for done in range(args.rounds):
        for model in args.models:
            pair = Pair(args, model)
            for what, ours, peer in pair.measures():
                found.setdefault((pair.name, what, "llama.cpp"), []).append((ours, peer))
        if args.peft:
            what, ours, peer = training(args, args.models[0].partition("=")[0])
            found.setdefault((Pair(args, args.models[0]).name, what, "PEFT"), []).append((ours, peer))
        print(f"round {done + 1} of {args.rounds}", file=sys.stderr)
    text, bars = table(sorted(((*key, pairs) for key, pairs in found.items()),
                              key=lambda row: [Pair(args, model).name for model in args.models].index(row[0])))
    print(text, end="")
    if args.markdown:
        Path(args.markdown).write_text(text)
    if args.svg:
        Path(args.svg).write_text(chart(bars))


if __name__ == "__main__":
    main()
