#!/usr/bin/env python3
"""MB/s of Hugging Face tokenizers on a text, one thread: tokenizer_peer.py MODEL.gguf|tokenizer.json TEXT [SECONDS].

A GGUF file with byte-level BPE is rebuilt as Digits + ByteLevel (SmolLM's pre-tokeniser). With --save FILE the rebuilt
tokenizer.json is written, so that the pair of this program can read the same file.
"""
import os
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # noqa: E402


def from_gguf(path):
    from gguf import GGUFReader
    fields = GGUFReader(path).fields
    pieces = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(p, normalized=False, special=True)
                                  for p, kind in zip(pieces, kinds) if kind == 3])
    return tokenizer


def main():
    args = sys.argv[1:]
    save = None
    if "--save" in args:
        at = args.index("--save")
        save = args[at + 1]
        del args[at:at + 2]
    tokenizer = Tokenizer.from_file(args[0]) if args[0].endswith(".json") else from_gguf(args[0])
    if save:
        tokenizer.save(save)
    text = open(args[1], encoding="utf-8").read()
    size = len(text.encode())
    seconds = float(args[2]) if len(args) > 2 else 2.0
    best, count, end = 1e30, 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        count = len(tokenizer.encode(text, add_special_tokens=False).ids)
        best = min(best, time.perf_counter() - begin)
    print(f"{size} bytes, {count} ids, {best * 1e3:.2f} ms, {size / best / 1e6:.1f} MB/s")


if __name__ == "__main__":
    main()
