#!/usr/bin/env python3
"""Compares Cambium on Qwen2.5-Coder-0.5B-Instruct (Q4_K_M) with transformers and PEFT on the same weights in fp32.

usage: check.py CAMBIUM [MODEL.gguf] [CHECK...]     checks: tokenizer logprobs greedy lora_two lora (all of them)

bench/qwen/fetch.sh fetches the model; without it the exit code is 77, which ctest counts as skipped. The references are
tests/golden/qwen, by tools/make_qwen_golden.py. Exit 0 only if all holds.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import lora_start

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "qwen"
LOGPROB_BOUND, LOSS_BOUND = 2e-3, 1e-3
CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


def golden(name):
    return json.loads((GOLDEN / name).read_text())


def default_model():
    home = os.environ.get("CAMBIUM_HOME")
    home = home or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "cambium")
    return os.path.join(home, "models", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf")


class Cambium:
    def __init__(self, program, model):
        self.program, self.model = program, model

    def __call__(self, verb, *arguments, text=""):
        done = subprocess.run([self.program, verb, self.model, *arguments], input=text.encode(), capture_output=True)
        if done.returncode != 0:
            raise RuntimeError(f"{verb}: exit {done.returncode}: {done.stderr.decode().strip()[-300:]}")
        return done.stdout.decode()

    def json(self, *arguments, text=""):
        return json.loads(self(*arguments, "--json", text=text))


@check
def tokenizer(cambium):
    """Ids of every text are equal."""
    wrong = count = 0
    for text, ids in golden("tokenizer_cases.json"):
        if not text:
            continue  # the command line takes no empty text
        count += 1
        got = cambium.json("tokenize", "-", "--special", text=text)["ids"]
        if got != ids:
            wrong += 1
            print(f"  {text!r}: {got}, expected {ids}")
    return wrong == 0, f"{count - wrong} of {count} texts"


@check
def logprobs(cambium):
    """Log-probabilities with --exact."""
    worst = 0.0
    for prompt in golden("logprobs.json").values():
        got = cambium.json("score", "--exact", "--ids", ",".join(map(str, prompt["ids"])))["logprobs"]
        if len(got) != len(prompt["logprobs"]):
            return False, f"{len(got)} log-probabilities, expected {len(prompt['logprobs'])}"
        worst = max(worst, *(abs(a - b) for a, b in zip(got, prompt["logprobs"])))
    return worst <= LOGPROB_BOUND, f"largest difference {worst:.1e}, bound {LOGPROB_BOUND}"


@check
def greedy(cambium):
    """The likeliest tokens, one after another, with --exact."""
    for name, run in golden("greedy.json").items():
        got = cambium.json("generate", "--exact", "--temp", "0", "-n", str(len(run["ids"])), "--ids",
                           ",".join(map(str, run["prompt"])))["ids"]
        same = next((i for i, (a, b) in enumerate(zip(got, run["ids"])) if a != b), len(run["ids"]))
        if got != run["ids"]:
            return False, f"{name}: {same} of {len(run['ids'])} tokens"
    return True, "every token"


@check
def lora_two(cambium):
    """Six steps of a LoRA of rank 4 on all linears of two layers in fp32, from PEFT's start and on its batches."""
    return train(cambium, golden("lora_two.json"), str(GOLDEN / "lora_two_start"))


@check
def lora(cambium):
    """The same on every layer."""
    with tempfile.TemporaryDirectory() as folder:
        lora_start.write(folder)
        return train(cambium, golden("lora_all.json"), folder)


def train(cambium, run, start):
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "data.jsonl"), "w") as data:
            for ids in (ids for batch in run["batches"] for ids in batch):
                data.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")
        cambium("train", "--data", f"{folder}/data.jsonl", "--format", "ids", "--init-from", start,
                "--rank", str(lora_start.RANK), "--alpha", str(lora_start.ALPHA), "--no-shuffle", "--batch-size",
                str(len(run["batches"][0])), "--seq-len", str(len(run["batches"][0][0])), "--steps",
                str(len(run["losses"])), "--lr", str(run["lr"]), "--schedule", "constant", "--warmup", "0",
                "--weight-decay", "0", "--clip", "0", "--precision", "fp32",
                "--yes", "-q", "-o", f"{folder}/out")
        lines = [json.loads(line) for line in open(f"{folder}/out/metrics.jsonl")]
    got = [line["loss"] for line in lines if "loss" in line]
    if len(got) != len(run["losses"]):
        return False, f"{len(got)} steps, expected {len(run['losses'])}"
    worst = max(abs(a - b) for a, b in zip(got, run["losses"]))
    return worst <= LOSS_BOUND, f"largest difference {worst:.1e}, bound {LOSS_BOUND}; {got[0]:.4f} to {got[-1]:.4f}"


def main():
    program, *rest = sys.argv[1:]
    model = rest.pop(0) if rest and rest[0] not in CHECKS else default_model()
    if not os.path.exists(model):
        print(f"skipped: no model at {model}; bench/qwen/fetch.sh fetches it")
        return 77
    failed = 0
    for name in rest or CHECKS:
        try:
            holds, what = CHECKS[name](Cambium(os.path.abspath(program), model))
        except RuntimeError as error:
            holds, what = False, str(error)
        except FileNotFoundError as error:
            print(f"skip  {name}: {error.filename} is not there; tools/make_qwen_golden.py makes it", flush=True)
            continue
        failed += not holds
        print(f"{'ok  ' if holds else 'FAIL'}  {name}: {what}", flush=True)
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
