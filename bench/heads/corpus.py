#!/usr/bin/env python3
"""Cuts CMake's reference manual (Debian package cmake-data, /usr/share/cmake-*/Help) into training and held-out documents.

usage: corpus.py OUT_DIR [HELP_DIR]

Whole documents go to one side or the other, by a hash of their names, so nothing held out was trained on. Writes
train.jsonl ({"text"}, about 100 thousand tokens of SmolLM2), valid.jsonl and prompts.jsonl ({"id", "prompt"}: the
beginnings of held-out documents).
"""
import glob
import hashlib
import json
import pathlib
import sys

TRAIN_BYTES, PROMPTS = 370_000, 24

out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
folder = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else sorted(glob.glob("/usr/share/cmake-*/Help"))[-1])
documents = []
for path in folder.rglob("*.rst"):
    text = path.read_text(errors="replace").strip()
    if len(text) > 600:
        name = str(path.relative_to(folder))
        documents.append((hashlib.sha256(name.encode()).hexdigest(), name, text))
documents.sort()
held_out, train, size = [], [], 0
for digest, name, text in documents:
    if int(digest[-1], 16) == 0:
        held_out.append((name, text))
    elif size < TRAIN_BYTES:
        train.append(text[:8000])
        size += len(train[-1])
with open(out / "train.jsonl", "w") as file:
    for text in train:
        file.write(json.dumps({"text": text}) + "\n")
with open(out / "valid.jsonl", "w") as file:
    for _, text in held_out:
        file.write(json.dumps({"text": text[:2500]}) + "\n")
with open(out / "prompts.jsonl", "w") as file:
    for name, text in held_out[:PROMPTS]:
        file.write(json.dumps({"id": name, "prompt": text[:300]}) + "\n")
print(f"{len(train)} documents of {size} bytes to train on, {len(held_out)} held out")
