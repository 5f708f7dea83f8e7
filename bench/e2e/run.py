"""The low-data experiment of the Prefix-Tuning paper (Li & Liang 2021, section 6.3) on E2E: BLEU after training on few records.

usage: run.py CAMBIUM MODEL E2E_DIR OUT_DIR [--sizes 50,100,200,500] [--methods LIST] [--records 200] [--seeds 1]
              [--steps 60] [--minutes 0]

E2E_DIR holds src1_valid.txt and src1_test.txt (`record||sentence` lines). Every cell is a directory in OUT_DIR: one that is
finished is not run again, one that was interrupted goes on from its checkpoint; --minutes ends the run before the next cell
that would begin later. Each time OUT_DIR gets table.md of all finished cells, and bleu.svg of the methods that have several
sizes. prefix-text-N are prefixes of other lengths, run only where asked for.
"""
import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

# About as many parameters each: a prefix of 10 has 115,200 on the default model, the LoRA too, the adapter 103,740.
PREFIX = ["--graft", "prefix", "--length", "10"]
METHODS = {
    "lora": ["--graft", "lora", "--rank", "2", "--alpha", "4", "--targets", "q_proj,v_proj", "--lr", "2e-3"],
    "houlsby": ["--graft", "adapter", "--variant", "houlsby", "--reduction", "576", "--lr", "5e-3"],
    "prefix-text": PREFIX + ["--prefix-init", "text", "--lr", "1e-2"],
    "prefix-random": PREFIX + ["--prefix-init", "random", "--lr", "1e-2"],
    "prefix-zero": PREFIX + ["--prefix-init", "zero", "--lr", "1e-2"],
    "prefix-text-mlp": PREFIX + ["--prefix-init", "text", "--prefix-mlp", "64", "--lr", "1e-3"],
    "prefix-random-mlp": PREFIX + ["--prefix-init", "random", "--prefix-mlp", "64", "--lr", "1e-3"],
    "full": ["--graft", "full", "--lr", "5e-5"],
}
LENGTHS = {f"prefix-text-{n}": ["--graft", "prefix", "--length", str(n), "--prefix-init", "text", "--lr", "1e-2"]
           for n in (1, 3, 5, 20, 40, 80)}


def read(path):
    """Records in the order of the file, each with its sentences."""
    records = {}
    for line in path.read_text().splitlines():
        record, _, sentence = line.partition("||")
        records.setdefault(record.strip(), []).append(sentence.strip())
    return list(records.items())


def run(*command, **kwargs):
    return subprocess.run([str(part) for part in command], check=True, **kwargs)


def svg(cells, sizes, methods, path):
    width, height, left, top = 720, 380, 60, 20
    most = max(list(cells.values()) + [1]) * 1.1
    x = lambda i: left + i * (width - left - 180) / max(1, len(sizes) - 1)
    y = lambda value: height - 40 - value / most * (height - 40 - top)
    colours = ["#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#7b4fa3", "#00798c", "#8d6b48", "#444444"]
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    for tick in range(0, int(most) + 1, 10):
        out.append(f'<line x1="{left}" x2="{x(len(sizes) - 1):.0f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>'
                   f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
    for i, size in enumerate(sizes):
        out.append(f'<text x="{x(i):.0f}" y="{height - 20}" text-anchor="middle">{size}</text>')
    out.append(f'<text x="{left}" y="{height - 4}">training records; BLEU on the test records</text>')
    for n, method in enumerate(methods):
        points = [(x(i), y(cells[size, method])) for i, size in enumerate(sizes) if (size, method) in cells]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colours[n % 8]}" stroke-width="2"/>')
        out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colours[n % 8]}"/>' for a, b in points]
        out.append(f'<text x="{width - 150}" y="{top + 10 + 18 * n}" fill="{colours[n % 8]}">{method}</text>')
    path.write_text("\n".join(out + ["</svg>"]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("cambium", "model", "data", "out"):
        parser.add_argument(name)
    parser.add_argument("--sizes", default="50,100,200,500")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=0)
    args = parser.parse_args()
    started = time.monotonic()
    sizes, methods = [int(s) for s in args.sizes.split(",")], args.methods.split(",")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    train, test = read(Path(args.data) / "src1_valid.txt"), read(Path(args.data) / "src1_test.txt")
    random.Random(0).shuffle(test)
    test = test[: args.records]
    references = out / "references.tsv"
    references.write_text("".join("\t".join(sentences) + "\n" for _, sentences in test))

    def bleu(texts):
        shown = run(args.cambium, "eval", "--bleu", texts, "--references", references, "--json", capture_output=True)
        return json.loads(shown.stdout)["bleu"]

    def generate(texts, model, graft=None):
        lines = []
        for record, _ in test:
            shown = run(args.cambium, "generate", model, "-p", record + "\n", "--temp", "0", "-n", "60", "--stop", "\n",
                        "--json", "-q", *(["--graft", graft] if graft else []), capture_output=True)
            lines.append(" ".join(json.loads(shown.stdout)["text"].split()))
        texts.write_text("".join(line + "\n" for line in lines))

    def late():
        return args.minutes > 0 and time.monotonic() - started > 60 * args.minutes

    if not (out / "base.txt").exists():
        generate(out / "base.txt", args.model)
    for size in sizes:
        for seed in range(args.seeds):
            chosen = random.Random(100 + seed).sample(train, size)
            data = out / f"{size}-{seed}.jsonl"
            data.write_text("".join(json.dumps({"prompt": r + "\n", "completion": random.Random(r).choice(s)}) + "\n"
                                    for r, s in chosen))
            for method in methods:
                cell = out / f"{size}-{seed}-{method}"
                if (cell / "test.txt").exists():
                    continue
                if late():
                    break
                begun = time.monotonic()
                run(args.cambium, "train", args.model, "--data", data, "--raw", "-o", cell, "--batch-size", "10", "--steps",
                    args.steps, "--schedule", "linear", "--seed", seed, "--resume", "auto", "--save-every", "20", "-q",
                    *(METHODS | LENGTHS)[method])
                middle = time.monotonic()
                if method == "full":  # a whole model in fp32: served in 8 bits, and not kept
                    run(args.cambium, "quantize", cell / "model.gguf", cell / "served.gguf", "Q8_0", "-q")
                    generate(cell / "test.tmp", cell / "served.gguf")
                    for large in [*cell.glob("*.gguf"), *cell.glob("checkpoints/*")]:
                        large.unlink() if large.is_file() else shutil.rmtree(large)
                else:
                    generate(cell / "test.tmp", args.model, cell)
                (cell / "test.tmp").rename(cell / "test.txt")
                print(f"{cell.name}: train {middle - begun:.0f} s, generate {time.monotonic() - middle:.0f} s, "
                      f"BLEU {bleu(cell / 'test.txt'):.1f}", file=sys.stderr, flush=True)

    found = [path.parent.name.split("-", 2) for path in out.glob("*-*-*/test.txt")]
    sizes = sorted({int(size) for size, _, _ in found})
    methods = [method for method in METHODS | LENGTHS if any(method == name for _, _, name in found)]
    cells = {}
    for size in sizes:
        for method in methods:
            scores = [bleu(path) for path in sorted(out.glob(f"{size}-*-{method}/test.txt"))]
            if scores:
                cells[size, method] = sum(scores) / len(scores)
    rows = ["| method | " + " | ".join(str(size) for size in sizes) + " |", "| --- |" + " --- |" * len(sizes)]
    for method in methods:
        shown = [f"{cells[size, method]:.1f}" if (size, method) in cells else "" for size in sizes]
        rows.append(f"| {method} | " + " | ".join(shown) + " |")
    rows.append(f"\nWithout training: BLEU {bleu(out / 'base.txt'):.1f}. {len(test)} test records, {args.steps} steps of 10 "
                f"examples, {args.seeds} sample{'s' if args.seeds > 1 else ''} of training records.")
    (out / "table.md").write_text("\n".join(rows) + "\n")
    svg(cells, sizes, [m for m in methods if sum((size, m) in cells for size in sizes) > 1], out / "bleu.svg")
    print("\n".join(rows))


main()
