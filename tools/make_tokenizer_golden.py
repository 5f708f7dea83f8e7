#!/usr/bin/env python3
"""Writes the tokenizer goldens of tests/golden: make_tokenizer_golden.py TOKENIZER_CASES.json OUT_DIR.

tokenizer_cases.json   the strings and ids of the default model, compacted from the file given
tiny_*.json            small tokenizer.json files trained here on the strings, with ids by Hugging Face tokenizers
"""
import json
import os
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
ODD = r"[A-Z]?[a-z]+|\p{N}{1,2}|\s+|."


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level(False)])


def train(pre, texts, vocab, normalizer=None, **options):
    tokenizer = Tokenizer(models.BPE(**options))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre:
        tokenizer.pre_tokenizer = pre
    alphabet = [] if options else pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>"] + [f"<0x{b:02X}>" for b in range(256)] if options else []
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=alphabet, special_tokens=special,
                                   show_progress=False, limit_alphabet=300))
    return tokenizer


def main():
    cases = json.load(open(sys.argv[1]))["cases"]
    texts = [c["text"] for c in cases]
    with open(os.path.join(sys.argv[2], "tokenizer_cases.json"), "w") as out:
        json.dump([[c["text"], c["ids"]] for c in cases], out, separators=(",", ":"))
    extra = ["I'LL we'Ve it's 'S 'ſ x'sy", "a  b\n\n c \r\n\r\n  d\t\te", "1234567 12 ½", "e\u0301 \u00e9 \u1e9b\u0323 가",
             "<|im_end|> <|tool|> x<mask> y", "▁under▁score", " ", "", "\n", "   ", "x   ", "\u3000\u00a0 z", "'", "''s"]
    tokenizers = {
        "gpt2": train(byte_level(True), texts, 700),
        "smollm": train(pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level(True)]), texts, 700),
        "llama3": train(split(LLAMA3), texts, 700),
        "qwen2": train(split(QWEN2), texts, 700, normalizers.NFC()),
        "odd": train(split(ODD), texts, 700),
        "prefix": train(pre_tokenizers.ByteLevel(add_prefix_space=True), texts, 500),
        "spm": train(None, [w for t in texts for w in t.replace(" ", " \u2581").split(" ")], 900,
                     unk_token="<unk>", byte_fallback=True, fuse_unk=True),
    }
    tokenizers["spm"].normalizer = normalizers.Replace(" ", "\u2581")
    result = {}
    for name, tokenizer in tokenizers.items():
        tokenizer.decoder = decoders.ByteLevel() if name != "spm" else decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
        tokenizer.add_special_tokens(["<s>", "<|im_end|>"])
        tokenizer.add_tokens([AddedToken("<|tool|>", normalized=False),
                              AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False)])
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
        result[name] = {"tokenizer": json.loads(tokenizer.to_str()), "cases": []}
        for text in texts + extra:
            result[name]["cases"].append([text, tokenizer.encode(text).ids])
    for name, value in result.items():
        with open(os.path.join(sys.argv[2], f"tiny_{name}.json"), "w") as out:
            json.dump(value, out, separators=(",", ":"))


if __name__ == "__main__":
    main()
