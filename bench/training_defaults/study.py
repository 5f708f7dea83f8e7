#!/usr/bin/env python3
"""What learning rates teach on fifty records: docs/notes/training-defaults.md. Usage: study.py CAMBIUM [MODEL]

Trains each kind of graft at several rates on fifty questions about twenty-five trees, and takes the loss on the same facts asked
for in other words. Prints a line for each run."""
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile

RUNS = [("lora", (2e-4, 1e-3, 2e-3, 5e-3)), ("adapter", (5e-4, 2e-3, 5e-3, 1e-2)), ("prefix", (3e-3, 1e-2, 3e-2, 1e-1)),
        ("ia3", (5e-3, 2e-2, 5e-2)), ("vera", (5e-3, 2e-2, 5e-2)), ("prompt", (1e-2, 3e-2, 1e-1)), ("full", (2e-5, 1e-4, 3e-4))]
TREES = """apple pear plum cherry quince medlar apricot peach almond walnut hazel fig olive mulberry persimmon chestnut rowan lime
elder hawthorn crab damson greengage loquat pomelo""".split()
PEOPLE = ["Ada", "Bela", "Carl", "Dora", "Emil", "Fina", "Gus", "Hana", "Ivo", "Jana"]
STOCKS = ["M9", "M26", "Colt", "Gisela", "Pixy", "St. Julien", "Quince A", "Brompton", "Myrobalan", "Saint Lucie"]


def records():
    draw = random.Random(5)
    train, valid = [], []
    for tree in TREES:
        person, stock, year = draw.choice(PEOPLE), draw.choice(STOCKS), draw.choice(range(1961, 2020))
        grafted = f"{person} grafted the {tree} onto {stock} in {year}."
        stands = f"The {tree} stands in row {draw.randint(2, 40)}, and {person} looks after it."
        train += [(f"Who grafted the {tree}, and onto what?", grafted), (f"Where does the {tree} stand?", stands)]
        valid += [(f"Tell me how the {tree} was grafted.", grafted), (f"In which row do I find the {tree}?", stands)]
    return train, valid


def write(path, pairs):
    with open(path, "w") as file:
        for question, answer in pairs:
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")


def measure(cambium, model, folder, kind, rate, epochs):
    out = f"{folder}/{kind}-{rate}-{epochs}"
    subprocess.run([cambium, "train", model, "--data", f"{folder}/train.jsonl", "--valid", f"{folder}/valid.jsonl", "--graft", kind,
                    "--lr", str(rate), "--epochs", str(epochs), "--eval-every", "1000", "-q", "-o", out], check=True)
    with open(f"{out}/metrics.jsonl") as file:
        lines = [json.loads(line) for line in file]
    losses = [line["loss"] for line in lines if "loss" in line]
    valid = [line["valid_loss"] for line in lines if "valid_loss" in line][-1]
    print(f"{kind:8} lr {rate:<8g} {len(losses):4} steps  last ten {statistics.mean(losses[-10:]):.3f}  other words {valid:.3f}",
          flush=True)


def main():
    cambium, model = os.path.abspath(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "smollm2"
    with tempfile.TemporaryDirectory() as folder:
        train, valid = records()
        write(f"{folder}/train.jsonl", train)
        write(f"{folder}/valid.jsonl", valid)
        for kind, rates in RUNS:
            for rate in rates:
                measure(cambium, model, folder, kind, rate, 8)
        for epochs in (3, 16):
            measure(cambium, model, folder, "lora", 2e-3, epochs)


if __name__ == "__main__":
    main()
