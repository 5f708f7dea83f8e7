#!/usr/bin/env python3
"""compare_masks.py GRAMMAR_BENCH MODEL [SCHEMAS.jsonl ...]: masks along valid texts, bit for bit against llguidance's, on the
fifty schemas of bench/structured, or on the lines {"schema", "value"} of files; without a "value", along a text that is
drawn from llguidance's masks (tools/real_schemas.py). Needs the PyPI package llguidance."""
import base64
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import llguidance

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench/structured"))
import schemas as fifty  # noqa: E402


DRAWN, DRAWN_TOKENS = object(), 80


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

    def drawn(self, mask, forced, rng):
        """A token of a mask, a short one as a rule, so that strings end; None at an end."""
        if forced:
            return self(forced)[0]
        allowed = [i for i in range(len(self.tokens)) if mask[i // 8] >> i % 8 & 1]
        if not allowed or any(end in allowed for end in self.ends):
            return None
        closing = [i for i in allowed if self.tokens[i] in (b'"', b'",', b'":', b'"}', b"}", b"]")]
        if closing and rng.random() < 0.5:
            return rng.choice(closing)
        short = [i for i in allowed if len(self.tokens[i]) <= 3 and self.tokens[i].isascii()]
        return rng.choice(short or allowed)

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
    cases = [] if sys.argv[3:] else fifty.schemas()
    for path in sys.argv[3:]:
        cases += [(one["schema"], one.get("value", DRAWN)) for one in map(json.loads, open(path))]
    out, skipped = [], 0
    for schema, value in cases:
        options = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":",
                   "coerce_one_of": True}  # of alternatives that exclude each other, as those of these schemas do
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(closed(schema)), defaults=options)
        matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
        if matcher.is_error():
            skipped += 1
            continue
        rng, text = random.Random(len(out)), None
        if value is not DRAWN:
            text = pieces(json.dumps(value, separators=(",", ":"), ensure_ascii=False))
        ids, masks = [], []
        while True:
            # Where the text is forced, llguidance allows the one token that its tokenizer writes; we all that begin it.
            forced, mask = matcher.compute_ff_bytes(), matcher.compute_bitmask()
            masks.append("" if forced else base64.b64encode(mask).decode())
            if text is not None:
                token = text[len(ids)] if len(ids) < len(text) else None
            else:
                token = pieces.drawn(mask, forced, rng) if len(ids) < DRAWN_TOKENS else None
            if token is None or not matcher.consume_token(token):
                break
            ids.append(token)
        out.append(json.dumps({"schema": schema, "ids": ids, "masks": masks}))
    print(f"{len(out)} schemas, {skipped} that llguidance refuses")
    (folder / "cases.jsonl").write_text("\n".join(out) + "\n")
    subprocess.run([bench, model, folder / "cases.jsonl"], check=True)


if __name__ == "__main__":
    main()
