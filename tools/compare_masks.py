#!/usr/bin/env python3
"""compare_masks.py GRAMMAR_BENCH MODEL: masks along valid texts, bit for bit against llguidance's, on the fifty schemas of
bench/structured and on schemas in files that are given behind. Needs the PyPI package llguidance."""
import base64
import json
import pathlib
import subprocess
import sys
import tempfile

import llguidance

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench/structured"))
import schemas as fifty  # noqa: E402


class Pieces:
    """The vocabulary as llguidance wants it; texts are cut greedily, which is all that a path needs."""

    def __init__(self, path):
        rows = [json.loads(line) for line in open(path)]
        self.tokens = [bytes(r["bytes"]) if not r["bytes"] or r["bytes"][0] != 255 else b"" for r in rows]
        ends = [i for i, r in enumerate(rows) if r["end"]]
        for end in ends:
            self.tokens[end] = b"<|end%d|>" % end
        self.ends, self.eos_token_id = ends, ends[0]
        self.bos_token_id = None
        self.special_token_ids = [i for i, t in enumerate(self.tokens) if not t or i in ends]
        for i, token in enumerate(self.tokens):
            if not token:
                self.tokens[i] = b"<|none%d|>" % i
        self.by_bytes = {t: i for i, t in reversed(list(enumerate(self.tokens)))}
        self.longest = max(map(len, self.tokens))

    def __call__(self, text):
        data, ids, at = text.encode() if isinstance(text, str) else text, [], 0
        while at < len(data):
            size = next(n for n in range(min(self.longest, len(data) - at), 0, -1) if data[at:at + n] in self.by_bytes)
            ids.append(self.by_bytes[data[at:at + size]])
            at += size
        return ids


def closed(schema):
    """What is declared and not opened is closed here; llguidance opens it."""
    if isinstance(schema, dict):
        schema = {k: closed(v) for k, v in schema.items()}
        if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
    return [closed(item) for item in schema] if isinstance(schema, list) else schema


def main():
    bench, model = sys.argv[1:3]
    folder = pathlib.Path(tempfile.mkdtemp())
    subprocess.run([bench, model, "--pieces", folder / "pieces.jsonl"], check=True)
    pieces = Pieces(folder / "pieces.jsonl")
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(pieces), n_vocab=len(pieces.tokens),
                                        eos_token=pieces.ends)
    cases = [(schema, json.dumps(value, separators=(",", ":"), ensure_ascii=False)) for schema, value in fifty.schemas()]
    for path in sys.argv[3:]:
        for line in open(path):
            one = json.loads(line)
            cases.append((one["schema"], json.dumps(one["value"], separators=(",", ":"), ensure_ascii=False)))
    out, skipped = [], 0
    for schema, text in cases:
        options = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(closed(schema)), defaults=options)
        matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
        if matcher.is_error():
            skipped += 1
            continue
        ids, masks = pieces(text), []
        for token in ids + [None]:
            # Where the text is forced, llguidance allows the one token that its tokenizer writes; we all that begin it.
            forced = bool(matcher.compute_ff_bytes())
            masks.append("" if forced else base64.b64encode(matcher.compute_bitmask()).decode())
            if token is not None and not matcher.consume_token(token):
                break
        out.append(json.dumps({"schema": schema, "ids": ids, "masks": masks}))
    print(f"{len(out)} schemas, {skipped} that llguidance refuses")
    (folder / "cases.jsonl").write_text("\n".join(out) + "\n")
    subprocess.run([bench, model, folder / "cases.jsonl"], check=True)


if __name__ == "__main__":
    main()
