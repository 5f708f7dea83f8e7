#!/usr/bin/env python3
"""Cuts the kernel's C headers (Debian package linux-libc-dev), or other text files, into training and held-out documents.

usage: corpus.py OUT_DIR [TRAIN_BYTES] [FOLDER] [PATTERN]

Whole files go to one side or the other, by a hash of their names, so nothing held out was trained on. Writes
train.jsonl ({"text"}: passages of 700 bytes, about 256 tokens of SmolLM2), beginnings.jsonl (of every third, for
--distill with --raw), more-beginnings.jsonl (of the others), valid.jsonl (passages that are held out) and prompts.jsonl
({"id", "prompt"}: from the middles of held-out files).
"""
import hashlib
import json
import pathlib
import sys

PASSAGE, PROMPTS = 700, 24

out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
budget = int(sys.argv[2]) if len(sys.argv) > 2 else 400_000
folder = pathlib.Path(sys.argv[3] if len(sys.argv) > 3 else "/usr/include/linux")
pattern = sys.argv[4] if len(sys.argv) > 4 else "*.h"
documents = []
for path in sorted(folder.rglob(pattern)):
    text = path.read_text(errors="replace").strip()
    if len(text) > 1500:
        name = str(path.relative_to(folder))
        documents.append((hashlib.sha256(name.encode()).hexdigest(), name, text))
documents.sort()
held_out = [(name, text) for digest, name, text in documents if digest[-1] in "01"]
train = [text for digest, _, text in documents if digest[-1] not in "01"]


def passages(text):
    """Whole lines, PASSAGE bytes at a time."""
    passage = ""
    for line in text.splitlines(keepends=True):
        if passage and len(passage) + len(line) > PASSAGE:
            yield passage
            passage = ""
        passage += line[:PASSAGE]


def write(name, records):
    with open(out / name, "w") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")


cut, size = [], 0
for text in train:
    for passage in passages(text):
        if size < budget:
            cut.append({"text": passage})
            size += len(passage)
write("train.jsonl", cut)
middles = [(name, list(passages(text))) for name, text in held_out if len(text) > 3 * PASSAGE]
middles = [(name, cuts[len(cuts) // 2 - 1:]) for name, cuts in middles]
for name, of_three in ("beginnings.jsonl", [0]), ("more-beginnings.jsonl", [1, 2]):
    write(name, [{"prompt": passage["text"][:PASSAGE * 2 // 5], "completion": passage["text"][PASSAGE * 2 // 5:]}
                 for i, passage in enumerate(cut) if i % 3 in of_three and len(passage["text"]) > PASSAGE // 2])
write("valid.jsonl", [{"text": passage} for _, cuts in middles for passage in cuts[1:3]][:64])
write("prompts.jsonl", [{"id": name, "task": folder.name, "prompt": cuts[0]} for name, cuts in middles][:PROMPTS])
print(f"{len(documents)} files: {len(cut)} passages of {size} bytes to train on, {len(held_out)} files held out")
