#!/usr/bin/env python3
"""valid.py CAMBIUM MODEL [N]: N answers (1,000) at temperature 1 on fifty schemas, checked by jsonschema; then the speed of
records with and without the grammar's drafts, against plain decoding of as many tokens."""
import json
import pathlib
import subprocess
import sys
import tempfile

import jsonschema

import schemas as fifty


def answer(cambium, model, records, *options):
    with tempfile.TemporaryDirectory() as folder:
        records_file, answers = pathlib.Path(folder, "in.jsonl"), pathlib.Path(folder, "out.jsonl")
        records_file.write_text("".join(json.dumps(r) + "\n" for r in records))
        done = subprocess.run([cambium, "generate", model, "--jsonl", records_file, "-o", answers, *options],
                              capture_output=True, text=True)
        errors = pathlib.Path(str(answers) + ".errors")
        if done.returncode or errors.exists():
            print(done.stderr[-2000:], errors.read_text()[:2000] if errors.exists() else "")
        return [json.loads(line) for line in answers.read_text().splitlines()]


def main():
    cambium, model = sys.argv[1:3]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 1000
    cases = fifty.schemas()
    records = [{"id": i, "prompt": "Here is the record as JSON:\n", "max_tokens": 400, "temperature": 1, "top_k": 0,
                "top_p": 1, "min_p": 0, "seed": i, "json_schema": cases[i % len(cases)][0]} for i in range(count)]
    valid = ended = 0
    for got in answer(cambium, model, records):
        schema = cases[got["id"] % len(cases)][0]
        ended += got["finish_reason"] == "stop"
        try:
            checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
            checker.validate(json.loads(got["text"]))
            valid += 1
        except (ValueError, jsonschema.ValidationError) as error:
            print(got["id"], got["finish_reason"], repr(got["text"][:200]), str(error).splitlines()[0])
    print(f"{count} answers: {ended} ended, {valid} valid")
    sys.exit(valid != count or ended != count)


if __name__ == "__main__":
    main()
